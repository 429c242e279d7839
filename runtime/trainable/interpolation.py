"""Resizing along one axis: which elements of the input each element of the output is made of, and how much of each.

The rules are those of ONNX's Resize: a coordinate of the output is taken back to the input (`position`), and a kernel
around it gives the weights. All of it is plain numbers of the sizes; no tensor is looked at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mopt.runtime.trainable.operator import UnsupportedOperatorError
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Taps:
    """What an output axis is made of.

    Attributes:
        places: [taps, size of the output] places in the input.
        weights: [taps, size of the output]; None where there is one tap of weight 1.
        outside: [size of the output] whether an element lies outside of the input and takes a fixed value; None where
            no element does.
    """

    places: NDArray[np.int64]
    weights: Floats | None
    outside: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Interpolation:
    """Resize's attributes that say how one axis is resized."""

    mode: str = "nearest"
    transform: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False

    def taps(self, size: int, scale: float, count: int, roi: tuple[float, float]) -> Taps:
        """Return what each of `count` elements is made of, from an axis of `size` elements."""
        position = self._position(size, scale, count, roi)
        outside = None
        if self.transform == "tf_crop_and_resize":
            outside = (position < 0) | (position > size - 1)
            outside = outside if outside.any() else None
        if self.mode == "nearest":
            return Taps(np.clip(self._nearest(position), 0, size - 1)[None], None, outside)
        base = np.floor(position).astype(np.int64)
        shrink = min(scale, 1.0) if self.antialias else 1.0
        reach = 1 if self.mode == "linear" else 2
        first = int(np.floor(-reach / shrink)) + 1
        steps = np.arange(first, 2 - first)[:, None]
        weights = self._kernel((steps - (position - base)) * shrink)
        places = base + steps
        if self.exclude_outside:
            weights = np.where((places < 0) | (places >= size), 0.0, weights)
        if self.antialias or self.exclude_outside:
            weights = weights / weights.sum(0)
        return Taps(np.clip(places, 0, size - 1), weights, outside)

    def _position(self, size: int, scale: float, count: int, roi: tuple[float, float]) -> Floats:
        out = np.arange(count, dtype=np.float64)
        match self.transform:
            case "asymmetric":
                return out / scale
            case "half_pixel":
                return (out + 0.5) / scale - 0.5
            case "pytorch_half_pixel":
                return np.array([-0.5]) if count == 1 else (out + 0.5) / scale - 0.5
            case "half_pixel_symmetric":
                return size / 2 * (1 - count / (scale * size)) + (out + 0.5) / scale - 0.5
            case "align_corners":
                # By the exact length, as ONNX's cases have it, not by the whole number that it is cut to.
                length = max(scale * size, 1.0)
                return np.zeros(count) if length == 1 else out * (size - 1) / (length - 1)
            case "tf_half_pixel_for_nn":
                return (out + 0.5) / scale
            case "tf_crop_and_resize":
                begin, end = roi
                if count == 1:
                    return np.array([(begin + end) * (size - 1) / 2])
                return begin * (size - 1) + out * (end - begin) * (size - 1) / (count - 1)
        raise UnsupportedOperatorError(f"coordinate transformation `{self.transform}`")

    def _nearest(self, position: Floats) -> NDArray[np.int64]:
        # Scales such as 1/3 leave noise in the last digits, which must not decide which neighbour is nearer.
        position = np.round(position, 9)
        rounded: dict[str, Any] = {
            "round_prefer_floor": lambda: np.ceil(position - 0.5),
            "round_prefer_ceil": lambda: np.floor(position + 0.5),
            "floor": lambda: np.floor(position),
            "ceil": lambda: np.ceil(position),
            "simple": lambda: np.trunc(position),
        }
        if self.nearest not in rounded:
            raise UnsupportedOperatorError(f"nearest mode `{self.nearest}`")
        found: NDArray[np.int64] = rounded[self.nearest]().astype(np.int64)
        return found

    def _kernel(self, distance: Floats) -> Floats:
        x = np.abs(distance)
        if self.mode == "linear":
            triangle: Floats = np.clip(1 - x, 0, 1)
            return triangle
        if self.mode != "cubic":
            raise UnsupportedOperatorError(f"mode `{self.mode}`")
        a = self.cubic
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        weights: Floats = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
        return weights
