"""k-means in one dimension: Lloyd's algorithm over sorted values.

In one dimension a cluster is an interval, so one iteration needs only the places of the k - 1 borders in the sorted
values and differences of running sums: O(k log n) instead of O(k n), on all values rather than a sample. The start
follows the cube root of the density, which is where the best quantiser's levels lie as k grows (Panter and Dite 1951);
for few clusters it is the best partition of such a quantiser's many cells, found by dynamic programming (Wang and Song
2011). So no random restarts are needed, and two runs agree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_ITERATIONS = 1000
_SETTLED = 1e-6
"""A step of this share of the values' range, over all centroids, ends the iteration."""
_CELLS = 4
"""Cells a cluster that the density is estimated in."""
_FEW = 32
"""Clusters up to which the start is found by dynamic programming."""
_GRAINS = 512
"""Cells that it groups."""

Reals = NDArray[np.float64]


def kmeans(
    array: NDArray[Any], clusters: int, *, keep_zeros: bool, weights: Reals | None = None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Cluster the elements of an array by value.

    Args:
        array: finite floats of any shape.
        clusters: the most clusters, 2 to 256.
        keep_zeros: where the array has zeros, one centroid is exactly zero, so that they stay.
        weights: how much the squared error of each element counts, positive, of the array's shape; None for all alike.

    Returns:
        The centroids, ascending, in the array's type (all different, at most `clusters`), and for each element the
        index of its nearest one (the lower among equally near), of the array's shape.
    """
    # Everything is sorted in double precision: numpy 2.4 sorts float16 wrongly on processors with AVX512-FP16.
    reals = array.astype(np.float64)
    counts: Reals
    if weights is None:
        values, numbers = np.unique(reals, return_counts=True)
        counts = numbers.astype(np.float64)
    else:
        values, inverse = np.unique(reals, return_inverse=True)
        counts = np.bincount(inverse.reshape(-1), weights=weights.reshape(-1)).astype(np.float64)
    if values.size <= clusters:
        return values.astype(array.dtype), np.searchsorted(values, reals).astype(np.uint8)
    pinned = keep_zeros and bool(np.any(values == 0))
    if pinned:
        values, counts = values[values != 0], counts[values != 0]
    centroids = _settle(values, counts, _start(values, counts, clusters - pinned), pinned)
    kept = np.unique(centroids.astype(array.dtype).astype(np.float64))
    indices = np.searchsorted((kept[1:] + kept[:-1]) / 2, reals).astype(np.uint8)
    used = np.zeros(kept.size, bool)
    used[indices.reshape(-1)] = True
    renumbered = (np.cumsum(used) - 1).astype(np.uint8)
    return kept[used].astype(array.dtype), renumbered[indices]


def inertia(array: NDArray[Any], centroids: NDArray[Any], indices: NDArray[np.uint8]) -> float:
    """Return the sum of squared distances from the elements to their centroids."""
    return float(np.sum(np.square(array.astype(np.float64) - centroids.astype(np.float64)[indices])))


def _start(values: Reals, counts: Reals, clusters: int) -> Reals:
    if clusters > _FEW or values.size <= clusters:
        return _by_density(values, counts, clusters)
    borders = [0, values.size]
    if values.size <= _GRAINS:
        borders = list(range(values.size + 1))
    else:
        grains = _by_density(values, counts, _GRAINS)
        borders += np.searchsorted(values, (grains[1:] + grains[:-1]) / 2, side="right").tolist()
    return _best_partition(values, counts, np.unique(borders), clusters)


def _best_partition(values: Reals, counts: Reals, borders: NDArray[Any], clusters: int) -> Reals:
    """Return the means of the best `clusters` groups of neighbouring cells; `borders` index the values."""
    size, first, second = (np.concatenate(([0.0], np.cumsum(counts * values**power)))[borders] for power in range(3))
    within = second[None] - second[:, None] - (first[None] - first[:, None]) ** 2 / _divisor(size[None] - size[:, None])
    within = np.where(size[None] > size[:, None], np.maximum(within, 0), np.inf)
    best, choices = within[0], []
    for _ in range(clusters - 1):
        total = best[:, None] + within
        choices.append(np.argmin(total, axis=0))
        best = np.min(total, axis=0)
    ends = [borders.size - 1]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    edges = np.array([0, *reversed(ends)])
    means: Reals = np.diff(first[edges]) / np.diff(size[edges])
    return means


def _divisor(size: Reals) -> Reals:
    return np.where(size > 0, size, 1.0)


def _by_density(values: Reals, counts: Reals, clusters: int) -> Reals:
    # Cells of about equal counts: a histogram of equal widths would be empty or noisy in the tails.
    running = np.cumsum(counts)
    cells = min(_CELLS * clusters, values.size - 1)
    places = np.unique(np.searchsorted(running, np.linspace(running[0], running[-1], cells + 1)))
    edges, held = values[places], np.diff(running[places])
    mass = np.concatenate(([0.0], np.cumsum(np.cbrt(held * np.diff(edges) ** 2))))
    wanted = (np.arange(clusters) + 0.5) / clusters * mass[-1]
    start: Reals = np.interp(wanted, mass, edges)
    return start


def _settle(values: Reals, counts: Reals, centroids: Reals, pinned: bool) -> Reals:
    """Iterate until the centroids stay where they are. A pinned one, zero, is put among them and never moves."""
    if pinned:
        centroids = np.sort(np.append(centroids, 0.0))
    totals = [np.concatenate(([0.0], np.cumsum(counts * values**power))) for power in range(3)]
    span = float(values[-1] - values[0])
    for _ in range(_ITERATIONS):
        borders = (centroids[1:] + centroids[:-1]) / 2
        places = np.concatenate(([0], np.searchsorted(values, borders, side="right"), [values.size]))
        size, first, second = (total[places[1:]] - total[places[:-1]] for total in totals)
        means = np.where(size > 0, first / _divisor(size), centroids)
        fixed = (centroids == 0) if pinned else np.zeros(centroids.size, bool)
        means[fixed] = 0
        idle = np.flatnonzero((size == 0) & ~fixed)
        moved = float(np.max(np.abs(means - centroids)))
        centroids = means
        if idle.size:
            spread = second - 2 * means * first + means**2 * size
            centroids = _move_idle(values, places, centroids, idle, spread)
        elif moved <= _SETTLED * span:
            break
    return centroids


def _move_idle(values: Reals, places: NDArray[Any], centroids: Reals, idle: NDArray[Any], spread: Reals) -> Reals:
    """Send centroids without elements to the far ends of the clusters with the largest spread."""
    widest = np.argsort(-spread, kind="stable")[: idle.size]
    lowest, highest = values[places[widest]], values[places[widest + 1] - 1]
    middle = centroids[widest]
    centroids = centroids.copy()
    centroids[idle] = np.where(highest - middle >= middle - lowest, highest, lowest)
    return np.sort(centroids)
