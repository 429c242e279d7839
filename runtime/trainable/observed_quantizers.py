"""Quantisers whose grid follows what they see: an activation's range, a weight's magnitude or least error."""

from __future__ import annotations

import torch
from mopt.runtime.trainable.learned_quantizer import on_grid
from torch import nn


class ObservedRange(nn.Module):
    """An activation's grid, which follows the least and the greatest element of the batches (Jacob et al. 2018).

    Args:
        low, high: the range to start from; it holds zero.
        ends: smallest and largest integer.
        symmetric: the grid is symmetric about zero.
        momentum: of the moving average.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    range: torch.Tensor

    def __init__(self, low: float, high: float, ends: tuple[int, int], *, symmetric: bool, momentum: float) -> None:
        super().__init__()
        self.low, self.high = ends
        self.axis = None
        self.observing = True
        self._symmetric, self._momentum = symmetric, momentum
        self.register_buffer("range", torch.tensor([low, high]))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("zero_point", torch.zeros((), dtype=torch.int32))
        self._follow()

    def _follow(self) -> None:
        low, high = self.range.clamp(max=0.0)[0], self.range.clamp(min=0.0)[1]
        tiny = torch.finfo(torch.float32).tiny
        if self._symmetric:
            middle = (self.low + self.high + 1) // 2
            self.scale.copy_((torch.maximum(-low, high) / (self.high - middle)).clamp(min=tiny))
            self.zero_point.fill_(middle)
            return
        scale = ((high - low) / (self.high - self.low)).clamp(min=tiny)
        self.scale.copy_(scale)
        self.zero_point.copy_((self.low - low / scale).round().clamp(self.low, self.high))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the nearest reals of the grid; in training look at x first."""
        if self.training and self.observing and x.numel():
            with torch.no_grad():
                seen = torch.stack(torch.aminmax(x.detach().float()))
                if not torch.isfinite(seen).all():
                    return x  # no grid holds it, and the loss should show it
                self.range.lerp_(seen, 1 - self._momentum)
                self._follow()
        return torch.fake_quantize_per_tensor_affine(
            x.float(), self.scale.clone(), self.zero_point.clone(), self.low, self.high
        ).to(x.dtype)

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the integers of the nearest reals, as floats that gradients pass through."""
        return on_grid(self, x)


class FittedWeight(nn.Module):
    """A weight's grid, computed from the weight: its largest magnitude, or what errs least.

    Args:
        shape: of the steps: [] or [C].
        ends: smallest and largest integer.
        axis: of the channels; None for one step for all.
        search: the steps are those of least squared error when `fit` was last called, in proportion to the peak.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    share: torch.Tensor
    floor: torch.Tensor

    def __init__(self, shape: torch.Size, ends: tuple[int, int], axis: int | None, *, search: bool) -> None:
        super().__init__()
        self.low, self.high = ends
        self.axis, self.search = axis, search
        for name, start in (("scale", torch.ones), ("share", torch.ones), ("floor", torch.zeros)):
            self.register_buffer(name, start(shape))
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32))

    def raise_to(self, least: torch.Tensor) -> None:
        """Make no step smaller than `least`, from now on."""
        self.floor.copy_(torch.maximum(self.floor, least.reshape(self.floor.shape)))

    def fit(self, weight: torch.Tensor) -> None:
        """Choose the steps anew."""
        if self.search:
            rows = _rows(weight, self.scale, self.axis)
            peak = rows.abs().amax(1).clamp(min=1e-30)
            self.share.copy_((best_step(rows, self.low, self.high) * self.high / peak).reshape(self.share.shape))
        self._measure(weight)

    def _measure(self, weight: torch.Tensor) -> None:
        with torch.no_grad():
            peak = _rows(weight, self.scale, self.axis).abs().amax(1).reshape(self.scale.shape)
            step = torch.where(peak > 0, peak * self.share / self.high, torch.ones_like(peak))
            self.scale.copy_(torch.maximum(step.clamp(min=torch.finfo(torch.float32).tiny), self.floor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the nearest reals of the grid that fits x now."""
        self._measure(x.detach())
        scale, zero = self.scale.clone(), self.zero_point.clone()
        if self.axis is None or scale.numel() == 1:
            return torch.fake_quantize_per_tensor_affine(x, scale.reshape(1), zero.reshape(1), self.low, self.high)
        return torch.fake_quantize_per_channel_affine(x, scale, zero, self.axis % x.dim(), self.low, self.high)

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the integers of the nearest reals, as floats that gradients pass through."""
        self._measure(x.detach())
        return on_grid(self, x)


def best_step(rows: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Return the step for each row of f32[C, n] with the least squared error among shares of its peak, f32[C]."""
    with torch.no_grad():
        peak = rows.abs().amax(1)
        top = torch.where(peak > 0, peak / high, torch.ones_like(peak)).clamp(min=torch.finfo(torch.float32).tiny)
        best, least = top, torch.full_like(top, torch.inf)
        for share in torch.linspace(1.0, 0.25, 31).tolist():
            step = top * share
            spread = step[:, None]
            error = ((rows / spread).round().clamp(low, high) * spread - rows).square().sum(1)
            best, least = torch.where(error < least, step, best), torch.minimum(error, least)
        return best


def _rows(weight: torch.Tensor, scale: torch.Tensor, axis: int | None) -> torch.Tensor:
    """Return the elements that share a step as rows, f32[C, n]."""
    if axis is None or scale.numel() == 1:
        return weight.detach().reshape(1, -1)
    moved = weight.detach().movedim(axis, 0)
    return moved.reshape(moved.shape[0], -1)
