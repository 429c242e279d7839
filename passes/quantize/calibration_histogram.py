"""A histogram of a tensor's elements that widens with what it sees, and channel means, in a fixed size."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 8192
"""A multiple of four, so that neighbours can be merged in pairs about zero; 16 bins or more a level of 8 bits."""


class ChannelMeans:
    """Means of the channels of one tensor over all samples; of a tensor without a channel axis, none."""

    def __init__(self, axis: int | None) -> None:
        self._axis = axis
        self._sums: NDArray[np.float64] | None = None
        self._count = 0

    def add(self, array: NDArray[Any]) -> None:
        """Count one array of two dimensions or more."""
        if self._axis is None or array.ndim < 2 or not array.size:
            return
        axis = self._axis % array.ndim
        sums = array.sum(axis=tuple(other for other in range(array.ndim) if other != axis), dtype=np.float64)
        self._sums = sums if self._sums is None else self._sums + sums
        self._count += array.size // array.shape[axis]

    def mean(self) -> NDArray[np.float64] | None:
        """Return the mean of each channel, f64[channels]; None where nothing was counted."""
        return None if self._sums is None or not self._count else self._sums / self._count


class Histogram:
    """Counts of the elements of one tensor over all calibration samples.

    Bins are of equal width about zero: bin i holds [(i - BINS / 2) w, (i + 1 - BINS / 2) w). An element beyond
    them doubles w until it fits, pairs of bins being merged: a single pass over the data, and the same counts in
    whatever order samples come but for the first one, which chooses w.

    Attributes:
        low, high: least and greatest element seen.
        count: how many elements were seen.
    """

    def __init__(self, channel_axis: int | None = None, *, bins: bool = True) -> None:
        self.low, self.high, self.count = np.inf, -np.inf, 0
        self._means = ChannelMeans(channel_axis)
        self._width = 0.0
        self._counts = np.zeros(BINS, np.int64) if bins else None

    def add(self, array: NDArray[Any]) -> None:
        """Count the elements of a finite float array."""
        if not array.size:
            return
        low, high = float(array.min()), float(array.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.count += array.size
        self._means.add(array)
        if self._counts is None:
            return
        peak = max(-low, high)
        if self._width == 0:
            if peak == 0:
                self._counts[BINS // 2] += array.size
                return
            self._width = peak * 1.0001 / (BINS // 2)
        while peak >= self._width * (BINS // 2):
            self._widen()
        index = np.multiply(array.reshape(-1), np.float32(1 / self._width), dtype=np.float32)
        index += np.float32(BINS // 2)
        # The offset makes every index positive, so that truncation is the floor.
        places = np.clip(index.astype(np.intp), 0, BINS - 1)
        self._counts += np.bincount(places, minlength=BINS)

    def table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (centres, counts) of the bins that hold something, both f64[n]; centres lie within what was seen."""
        assert self._counts is not None
        held = np.flatnonzero(self._counts)
        width = self._width
        centres = np.clip((held + 0.5 - BINS // 2) * width, self.low, self.high)
        return centres, self._counts[held].astype(np.float64)

    @property
    def width(self) -> float:
        """The width of a bin."""
        return self._width

    def mean(self) -> NDArray[np.float64] | None:
        """Return the mean of each channel, f64[channels]; None where none was asked for or nothing was seen."""
        return self._means.mean()

    def _widen(self) -> None:
        assert self._counts is not None
        merged = self._counts.reshape(-1, 2).sum(1)
        self._counts[:] = 0
        self._counts[BINS // 4 : 3 * BINS // 4] = merged
        self._width *= 2
