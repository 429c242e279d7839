"""Quantisers whose grid is made of other quantisers' grids: those of biases, and of what was only moved."""

from __future__ import annotations

from typing import Any

import torch
from mopt.runtime.trainable.fake_quantizer import round_through
from mopt.runtime.trainable.learned_quantizer import on_grid
from torch import nn


class BiasGrid(nn.Module):
    """The grid of a bias: int32, of a step that is the input's times the weight's, as integer kernels add it.

    Args:
        source, weight: the quantisers of both, or any module with a `scale`.
        scale: the shape of the steps.
    """

    zero_point: torch.Tensor

    def __init__(self, source: nn.Module, weight: nn.Module, scale: torch.Tensor) -> None:
        super().__init__()
        # In a tuple, so that torch does not count their parameters twice.
        self._factors, self._shape = (source, weight), scale.shape
        self.register_buffer("zero_point", torch.zeros(scale.shape, dtype=torch.int32))
        self.low, self.high, self.axis = -(2**31), 2**31 - 1, None

    @property
    def scale(self) -> torch.Tensor:
        """The step of each element."""
        source, weight = (factor.scale.detach().float() for factor in self._factors)
        return (source.reshape(()) * weight).reshape(self._shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the nearest reals of the grid."""
        return (self.integers(x) * self.scale.double()).to(x.dtype)

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the integers of the nearest reals, as floats that gradients pass through."""
        return torch.clamp(round_through(x.double() / self.scale.double()), self.low, self.high)


class Moved(nn.Module):
    """The grid of what was only moved since it was put on another quantiser's grid: it lies there already."""

    def __init__(self, source: Any) -> None:
        super().__init__()
        self._source = (source,)
        self.low, self.high, self.axis = source.low, source.high, None

    @property
    def scale(self) -> torch.Tensor:
        """The other's step."""
        found: torch.Tensor = self._source[0].scale
        return found

    @property
    def zero_point(self) -> torch.Tensor:
        """The other's zero point."""
        found: torch.Tensor = self._source[0].zero_point
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x."""
        return x

    def integers(self, x: torch.Tensor) -> torch.Tensor:
        """Return the integers of the nearest reals, as floats that gradients pass through."""
        return on_grid(self, x)
