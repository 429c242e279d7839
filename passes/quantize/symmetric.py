"""Symmetric 8-bit quantisation of weights: `w ≈ scale × q`, q in -127…127."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 127
OFFSET = 128
"""What unsigned storage adds: it becomes the zero point."""


@dataclass(frozen=True)
class Quantized:
    """A quantised weight.

    Attributes:
        values: int8 or uint8, of the weight's shape.
        scale: float32, of the weight's shape with 1 along the axes that share a scale.
        zero_point: 0 or 128, of `values`' type.
    """

    values: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: NDArray[Any]


def quantize(array: NDArray[Any], axes: tuple[int, ...], signed: bool) -> Quantized:
    """Quantise `array`; the elements along `axes` share one scale. Slices of zeros keep scale 1."""
    peak = np.max(np.abs(array), axis=axes, keepdims=True).astype(np.float32)
    scale = np.where(peak > 0, peak / np.float32(LEVELS), np.float32(1)).astype(np.float32)
    # A slice of denormal numbers may have no scale that float32 can hold: it is all zeros then.
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    steps = np.clip(np.rint(array / scale), -LEVELS, LEVELS)
    if signed:
        return Quantized(steps.astype(np.int8), scale, np.zeros((), np.int8))
    return Quantized((steps + OFFSET).astype(np.uint8), scale, np.full((), OFFSET, np.uint8))
