"""A quantiser whose grid is learned by gradients: LSQ (Esser et al. 2020) and PACT (Choi et al. 2018).

The step s of a learned grid is kept as ln s, so that it stays positive, and so that one learning rate fits all: for
optimisers that normalise gradients (Adam) it is a relative rate. The gradient handed on is that of s divided by s, by
which plain SGD moves s as it would if s were the parameter (to first order).
"""

from __future__ import annotations

from typing import Any

import torch
from mopt.runtime.trainable.fake_quantizer import round_through
from torch import nn


class _Rounded(torch.autograd.Function):
    """x on the grid of step exp(log_step), zero point z; q = clamp(round(x / s), low - z, high - z), result q s.

    Gradients: of x straight through inside the grid's range. Of s, for each element, q - x / s inside and q outside
    (Esser et al. 2020, eq. 3), or q outside alone (Choi et al. 2018, eq. 3: α = top · s, and q / top = ±1 there).
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, log_step: torch.Tensor, z: torch.Tensor, ends: tuple[int, int], axis: int | None,
        factor: float, inside_counts: bool,
    ) -> torch.Tensor:  # fmt: skip
        shape = () if axis is None else tuple(-1 if place == axis else 1 for place in range(x.dim()))
        step = log_step.exp().reshape(shape)
        exact = x / step
        zero = z.reshape(shape)
        q = torch.clamp(exact.round(), ends[0] - zero, ends[1] - zero)
        ctx.save_for_backward(exact, q, step)
        ctx.axis, ctx.factor, ctx.inside_counts, ctx.shape = axis, factor, inside_counts, log_step.shape
        return q * step

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        exact, q, step = ctx.saved_tensors
        error = q - exact
        inside = error.abs() <= 0.5
        of_x = gradient * inside
        if ctx.needs_input_grad[1]:
            terms = torch.where(inside, error if ctx.inside_counts else error.new_zeros(()), q).mul_(gradient)
            others = [place for place in range(terms.dim()) if place != ctx.axis]
            of_step = (terms.sum(others) if others else terms).reshape(ctx.shape) * ctx.factor / step.reshape(ctx.shape)
        else:
            of_step = None
        return of_x, of_step, None, None, None, None, None


class Learned(nn.Module):
    """A grid whose step is a parameter.

    Args:
        step: f32 [] or [C], where it starts.
        zero_point: i32 of the same shape; stays.
        ends: smallest and largest integer.
        axis: of the channels; None for one step for all.
        method: `lsq`, or `pact`, whose gradient knows what is clipped alone.
        activation: the first axis counts samples, which LSQ's gradient scale leaves out.
    """

    zero_point: torch.Tensor

    def __init__(
        self, step: torch.Tensor, zero_point: torch.Tensor, ends: tuple[int, int], axis: int | None, *, method: str,
        activation: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.log_step = nn.Parameter(step.detach().float().log())
        self.register_buffer("zero_point", zero_point.to(torch.int32).clone())
        self.low, self.high = ends
        self.axis, self.method, self._activation = axis, method, activation
        zero = int(zero_point.reshape(-1)[0])
        self.top = max(self.high - zero, zero - self.low)

    @property
    def scale(self) -> torch.Tensor:
        """The step, f32 [] or [C]."""
        return self.log_step.exp()

    @property
    def clip(self) -> torch.Tensor:
        """The largest magnitude on the grid: PACT's α."""
        return self.scale * self.top

    def raise_to(self, least: torch.Tensor) -> None:
        """Make no step smaller than `least`."""
        with torch.no_grad():
            self.log_step.copy_(torch.maximum(self.scale, least.reshape(self.log_step.shape)).log())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the nearest reals of the grid."""
        if self.method == "pact":
            factor = 1.0 / self.top**2
        else:
            count = x[0].numel() if self._activation and x.dim() > 1 else x.numel() // max(1, self.log_step.numel())
            factor = float(max(1, count) * self.high) ** -0.5
        axis = None if self.axis is None or self.log_step.numel() == 1 else self.axis % x.dim()
        found: torch.Tensor = _Rounded.apply(
            x.float(), self.log_step, self.zero_point, (self.low, self.high), axis, factor, self.method == "lsq"
        )
        return found.to(x.dtype)

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the integers of the nearest reals, as floats that gradients pass through."""
        return on_grid(self, x)


def on_grid(grid: Any, x: torch.Tensor) -> torch.Tensor:
    """Return the integers of the reals of a quantiser's grid nearest to x, as floats that gradients pass through."""
    scale, zero = grid.scale.detach(), grid.zero_point
    if grid.axis is not None and scale.numel() > 1:
        shape = [-1 if place == grid.axis % x.dim() else 1 for place in range(x.dim())]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    return torch.clamp(round_through(x.float() / scale) + zero, grid.low, grid.high)
