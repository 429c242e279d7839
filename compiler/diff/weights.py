"""Weights, measured: zeros, distinct values, magnitude, and how far one tensor is from another.

Large tensors are read in pieces, so that no more than a piece is ever held as float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from mopt.diff.model import WeightError, WeightFacts
from mopt.diff.prints import dims
from mopt.ir.dtypes import word

if TYPE_CHECKING:
    from mopt.diff.scope import Held
    from numpy.typing import NDArray

MOST_DISTINCT = 1 << 16
"""More different values than this are not counted: no codebook or 16-bit grid holds them."""

_PIECE = 1 << 20


def facts(held: Held, *, measured: bool) -> WeightFacts:
    """Describe a weight; `measured` adds what needs its contents."""
    tensor = held.tensor
    shape = dims(tensor)
    told = WeightFacts(held.value.name or "", word(tensor.dtype), shape, math.prod(shape), nbytes(tensor), held.stored)
    return measure(told, tensor.numpy()) if measured and is_number(tensor.dtype) else told


def measure(told: WeightFacts, array: NDArray[Any]) -> WeightFacts:
    """Return the facts with zeros, distinct values, rms and peak of `array` (any shape) filled in."""
    zeros, squares, peak = 0, 0.0, 0.0
    distinct: NDArray[Any] | None = np.empty(0, dtype=np.float64)
    for piece in _pieces(array):
        zeros += int(piece.size - np.count_nonzero(piece))
        magnitudes = np.abs(piece)
        squares += float(np.dot(magnitudes, magnitudes))
        peak = max(peak, float(magnitudes.max(initial=0.0)))
        if distinct is not None:
            distinct = np.union1d(distinct, piece)
            distinct = distinct if distinct.size <= MOST_DISTINCT else None
    return replace(
        told,
        zeros=zeros,
        distinct=None if distinct is None else int(distinct.size),
        rms=_finite(math.sqrt(squares / max(1, array.size))),
        peak=_finite(peak),
    )


def error(before: NDArray[Any], after: NDArray[Any]) -> WeightError | None:
    """Return how far two arrays of one shape are apart; None where shapes differ or a difference is not finite."""
    if before.shape != after.shape:
        return None
    largest, squares = 0.0, 0.0
    for first, second in zip(_pieces(before), _pieces(after), strict=True):
        with np.errstate(invalid="ignore"):
            difference = np.abs(first - second)
        difference[first == second] = 0.0  # infinities of one sign are equal
        largest = max(largest, float(difference.max(initial=0.0)))
        squares += float(np.dot(difference, difference))
    rms = math.sqrt(squares / max(1, before.size)) if squares >= 0 else math.nan
    return WeightError(largest, rms) if math.isfinite(largest) and math.isfinite(rms) else None


def is_number(dtype: ir.DataType) -> bool:
    """Tell whether elements can be measured (neither text nor complex)."""
    return dtype not in (ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128, ir.DataType.UNDEFINED)


def nbytes(tensor: ir.TensorProtocol) -> int:
    """Return the bytes of a tensor as stored; elements of fewer than 8 bits are packed."""
    if tensor.dtype == ir.DataType.STRING:
        return sum(
            len(text if isinstance(text, bytes) else str(text).encode()) for text in np.asarray(tensor.numpy()).flat
        )
    return -(-math.prod(dims(tensor)) * tensor.dtype.bitwidth // 8)


def _pieces(array: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    flat = np.ascontiguousarray(array).reshape(-1)
    for start in range(0, flat.size, _PIECE):
        yield flat[start : start + _PIECE].astype(np.float64)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
