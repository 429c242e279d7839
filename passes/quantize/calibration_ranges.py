"""Choosing the range of a tensor from its histogram: minmax, percentile, entropy, mean squared error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import numpy as np
from mopt.passes.quantize.calibration_histogram import Histogram
from numpy.typing import NDArray

Method = Literal["minmax", "percentile", "entropy", "mse"]

_STEPS: Final = 40
"""Candidates tried for each end of a range."""
_DENSE: Final = 16
"""Elements a bin that a divergence needs on average: of fewer it measures chance, and prefers whatever has few bins."""
_WORSE: Final = 2.0
"""What the squared error of a range chosen by divergence may be of the least one's. Where most elements have a few
values, as padding and clipping leave them, a divergence says where those fall in a level, and nothing of a range."""
_SMALLEST: Final = {"mse": 0.1, "entropy": 0.3}
"""The least share of what was seen that a candidate keeps. A divergence says little where a level has few bins."""

Array = NDArray[np.float64]


def choose(
    histogram: Histogram,
    method: Method,
    *,
    percentile: float,
    levels: int,
    symmetric: bool,
    floor: float = -np.inf,
) -> tuple[float, float]:
    """Return (low, high), which hold zero: the range of a grid of `levels` steps.

    Args:
        percentile: share in percent of the elements that the range of `percentile` holds.
        symmetric: low is -high.
        floor: what is less than this counts as this.
    """
    low, high = min(max(histogram.low, floor), 0.0), max(histogram.high, 0.0)
    if method == "minmax" or low == high:
        return _even(low, high) if symmetric else (low, high)
    centres, counts = histogram.table()
    centres = np.maximum(centres, floor)
    if symmetric:
        centres, low, high = np.abs(centres), 0.0, max(-low, high)
        order = np.argsort(centres, kind="stable")
        centres, counts = centres[order], counts[order]
    if method == "entropy":
        # Zeros, and what lies at the floor, are exact on any grid; spread over a level they would drown the rest.
        inexact = (np.abs(centres) >= histogram.width) & (centres > floor)
        if inexact.any():
            centres, counts = centres[inexact], counts[inexact]
        centres, counts = _merged(centres, counts, histogram.width, levels)
        if counts.sum() < _DENSE * len(counts):
            method = "mse"
    if method == "percentile":
        low, high = _percentile(centres, counts, low, high, percentile)
    else:
        steps = levels // 2 if symmetric else levels
        whole = low, high
        low, high = _search(centres, counts, *whole, steps, _squared_error, _SMALLEST["mse"])
        if method == "entropy":
            bound = _WORSE * _squared_error(centres, counts, low, high, steps)
            ends = _search(centres, counts, *whole, steps, _divergence, _SMALLEST["entropy"])
            if _squared_error(centres, counts, *ends, steps) <= bound:
                low, high = ends
    return _even(low, high) if symmetric else (low, high)


def _merged(centres: Array, counts: Array, width: float, levels: int) -> tuple[Array, Array]:
    """Merge bins in pairs until they hold enough elements each, or until there are four a level."""
    while counts.sum() < _DENSE * len(counts) and len(counts) > 4 * levels:
        width *= 2
        bins, place = np.unique(np.floor(centres / width), return_inverse=True)
        merged = np.bincount(place, weights=counts)
        ends = centres.min(), centres.max()
        centres, counts = np.clip((bins + 0.5) * width, *ends), merged.astype(np.float64)
    return centres, counts


def _even(low: float, high: float) -> tuple[float, float]:
    peak = max(-low, high)
    return -peak, peak


def _percentile(centres: Array, counts: Array, low: float, high: float, percentile: float) -> tuple[float, float]:
    share = np.cumsum(counts) / counts.sum()
    outside = (1 - percentile / 100) / (2 if low < 0 < high else 1)
    first = int(np.searchsorted(share, outside, side="right")) if low < 0 else 0
    last = int(np.searchsorted(share, 1 - outside, side="left")) if high > 0 else len(centres) - 1
    at = min(last, len(centres) - 1)
    return (
        min(float(centres[min(first, at)]), 0.0) if low < 0 else 0.0,
        max(float(centres[at]), 0.0) if high > 0 else 0.0,
    )


def _search(
    centres: Array,
    counts: Array,
    low: float,
    high: float,
    levels: int,
    error: Callable[..., float],
    smallest: float,
) -> tuple[float, float]:
    """Move one end, then the other, then both again, each to the candidate with the least error; ties keep more."""
    shares = np.linspace(1.0, smallest, _STEPS)
    best = error(centres, counts, low, high, levels)
    ends = [low, high]
    for end in (1, 0, 1, 0):
        whole = (low, high)[end]
        if whole == 0:
            continue
        for share in shares:
            tried = list(ends)
            tried[end] = whole * share
            found = error(centres, counts, tried[0], tried[1], levels)
            if found < best:
                best, ends = found, tried
    return ends[0], ends[1]


def _squared_error(centres: Array, counts: Array, low: float, high: float, levels: int) -> float:
    step = (high - low) / levels
    grid = np.clip(np.rint((centres - low) / step), 0, levels) * step + low
    return float(np.dot((centres - grid) ** 2, counts))


def _divergence(centres: Array, counts: Array, low: float, high: float, levels: int) -> float:
    """Kullback-Leibler divergence of the clipped distribution from what 8 bits leave of it (Migacz 2017)."""
    inside = (centres >= low) & (centres <= high)
    if not inside.any():
        return float("inf")
    step = (high - low) / levels
    level = np.clip(np.rint((centres - low) / step), 0, levels).astype(np.int64)
    kept = np.flatnonzero(inside)
    reference = counts[kept].copy()
    reference[0] += counts[: kept[0]].sum()
    reference[-1] += counts[kept[-1] + 1 :].sum()
    # A level's mass, that of clipped elements left out, is spread evenly over the bins that fall on it.
    mass = np.bincount(level[kept], weights=counts[kept], minlength=levels + 1)
    bins = np.bincount(level[kept], minlength=levels + 1)
    spread = mass[level[kept]] / bins[level[kept]]
    p, q = reference / reference.sum(), spread / spread.sum()
    return float(np.sum(p * np.log(p / q)))
