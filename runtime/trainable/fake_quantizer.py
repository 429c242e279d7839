"""Rounding to a grid of integers, with gradients that pass straight through inside its range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

_EXACT: Final = 2**15
"""Integers beyond this are rounded in double precision: float32 has no room for them beside the fraction."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The reals (q - zero_point) · scale for the integers q from `low` to `high`.

    Attributes:
        scale: f32 [] or [1] for the whole tensor, [C] along `axis`, or of the tensor's rank where it is in blocks.
        zero_point: i32 of the same shape.
        block: elements along `axis` that share a scale; 0 without blocks.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    low: int
    high: int
    axis: int
    block: int

    @property
    def key(self) -> bytes:
        """Equal for equal grids."""
        head = f"{tuple(self.scale.shape)} {self.low} {self.high} {self.axis} {self.block} "
        content: bytes = self.scale.numpy().tobytes() + self.zero_point.numpy().tobytes()
        return head.encode() + content

    @property
    def whole(self) -> bool:
        """Whether one scale holds for the whole tensor."""
        return not self.block and self.scale.numel() == 1


class _Round(torch.autograd.Function):
    """Round half to even; the gradient as if nothing had been rounded."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def round_through(x: torch.Tensor) -> torch.Tensor:
    """Round half to even, with the gradient passed straight through."""
    found: torch.Tensor = _Round.apply(x)
    return found


class FakeQuantizer(nn.Module):
    """Puts a tensor on a fixed grid.

    A quantiser that takes its place in `runner.quantizers` needs `forward` and `integers`, and `scale` and
    `zero_point` (what is written back into the graph), `low` and `high`.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("scale", grid.scale.clone())
        self.register_buffer("zero_point", grid.zero_point.clone())
        self.low, self.high = grid.low, grid.high
        self.axis, self.block, self.whole = grid.axis, grid.block, grid.whole

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the nearest reals of the grid, of x's shape and type."""
        if x.dtype == torch.float32 and self.high <= _EXACT and not self.block:
            if self.whole:
                return torch.fake_quantize_per_tensor_affine(
                    x, self.scale.reshape(1), self.zero_point.reshape(1), self.low, self.high
                )
            return torch.fake_quantize_per_channel_affine(
                x, self.scale, self.zero_point, self.axis % x.dim(), self.low, self.high
            )
        return self.reals(self.integers(x)).to(x.dtype)

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the integers of the nearest reals, as floats that gradients pass through."""
        scale, zero = self._spread(x)
        wide = x.double() if self.high > _EXACT else x.float()
        return torch.clamp(round_through(wide / scale) + zero, self.low, self.high)

    def reals(self, q: torch.Tensor) -> torch.Tensor:
        """Return the reals of integers."""
        scale, zero = self._spread(q)
        return (q.to(torch.promote_types(q.dtype, scale.dtype)) - zero) * scale

    def _spread(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return spread(self.scale, x, self), spread(self.zero_point, x, self)


def spread(tensor: torch.Tensor, x: torch.Tensor, grid: Grid | FakeQuantizer) -> torch.Tensor:
    """Give scales or zero points the shape that broadcasts over a tensor."""
    if grid.whole or x.dim() == 0:
        return tensor.reshape(())
    axis = grid.axis % x.dim()
    if grid.block:
        return tensor.repeat_interleave(grid.block, axis).narrow(axis, 0, x.shape[axis])
    return tensor.reshape([-1 if place == axis else 1 for place in range(x.dim())])


def dequantized(grid: Grid) -> Callable[..., torch.Tensor]:
    """Return how to read carried integers on another grid, given the tensors of its scale and zero point."""

    def compute(q: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor | None = None) -> torch.Tensor:
        shifted = q if zero is None else q - spread(zero, q, grid)
        return shifted * spread(scale, q, grid)

    return compute
