"""The k smallest magnitudes over many arrays, exactly, without holding a second copy of them all.

Magnitudes of IEEE floats order as their bit patterns do, so the k-th smallest is found by two counts: of the upper
16 bits, then of the lower 16 bits among those that share the upper ones (a radix select).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BINS = 1 << 16


def magnitudes(array: NDArray[Any]) -> NDArray[np.uint32]:
    """Return |x| in single precision as ordered bit patterns, flat. Float64 beyond single precision saturates."""
    with np.errstate(over="ignore"):
        single = np.abs(array.reshape(-1)).astype(np.float32)
    bits: NDArray[np.uint32] = single.view(np.uint32)
    return bits


def smallest(arrays: Sequence[Callable[[], NDArray[Any]]], count: int) -> list[NDArray[np.bool_]]:
    """Mark the `count` elements of smallest magnitude over all arrays, earlier ones first among equals.

    Args:
        arrays: what returns each array; called more than once, so that only one needs to be in memory at a time.
        count: how many to mark; between 0 and the number of elements.

    Returns:
        One flat mask an array; together they hold exactly `count` true elements.
    """
    threshold, ties = _select(arrays, count)
    masks = []
    for load in arrays:
        bits = magnitudes(load())
        mask = bits < threshold
        if ties:
            at = np.flatnonzero(bits == threshold)[:ties]
            mask[at] = True
            ties -= len(at)
        masks.append(mask)
    return masks


def _select(arrays: Sequence[Callable[[], NDArray[Any]]], count: int) -> tuple[int, int]:
    """Return the threshold's bits, and how many elements equal to it are among the smallest."""
    if count == 0:
        return 0, 0
    upper = np.zeros(_BINS, np.int64)
    for load in arrays:
        upper += np.bincount(magnitudes(load()) >> 16, minlength=_BINS)
    high = int(np.searchsorted(np.cumsum(upper), count))
    left = count - int(upper[:high].sum())
    lower = np.zeros(_BINS, np.int64)
    for load in arrays:
        bits = magnitudes(load())
        lower += np.bincount(bits[bits >> 16 == high] & (_BINS - 1), minlength=_BINS)
    low = int(np.searchsorted(np.cumsum(lower), left))
    return (high << 16) | low, left - int(lower[:low].sum())
