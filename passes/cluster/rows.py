"""k-means over the values of many rows at once, each with centroids of its own.

What `mopt.passes.cluster.lloyd` does for one set of values, for all rows of a matrix in one go: sorted rows are put
end to end, so that one search finds the borders of all clusters, and differences of running sums give all means.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_ITERATIONS: Final = 100
_SETTLED: Final = 1e-6
"""A step of this share of the rows' range, over all centroids, ends the iteration."""
_CELLS: Final = 4
"""Cells a cluster that the density is estimated in."""
_FEW: Final = 32
"""Clusters up to which the start is found by dynamic programming."""
_GRAINS: Final = 64
"""Cells that it groups."""
_ROWS: Final = 256
"""Rows that it groups the cells of at once."""
_PART: Final = 1 << 22
"""Elements that are worked on at once."""

Reals = NDArray[np.float64]


def kmeans_rows(
    array: NDArray[Any], clusters: int, *, keep_zeros: bool, weights: Reals | None = None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Cluster the elements of each row of a matrix by value.

    Args:
        array: finite floats, [R, N].
        clusters: the most clusters a row, 2 to 256.
        keep_zeros: where a row has zeros, one of its centroids is exactly zero, so that they stay.
        weights: how much the squared error of each element counts, positive, [R, N]; None for all the same.

    Returns:
        The centroids, [R, clusters], ascending (repeated where a row has fewer), in the array's type, and for each
        element the index of its nearest one, [R, N].
    """
    centroids = np.empty((len(array), clusters), array.dtype)
    indices = np.empty(array.shape, np.uint8)
    step = max(_PART // max(array.shape[1], 1), 1)
    for start in range(0, len(array), step):
        part = slice(start, start + step)
        some = None if weights is None else weights[part]
        centroids[part], indices[part] = _part(array[part], clusters, keep_zeros, some)
    return centroids, indices


def _part(
    array: NDArray[Any], clusters: int, keep_zeros: bool, weights: Reals | None
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    reals = array.astype(np.float64)
    low, span = reals.min(axis=1, keepdims=True), np.ptp(reals, axis=1, keepdims=True)
    span[span == 0] = 1.0
    # Every row in [0, 1], and 2 apart from the next: searches never leave a row.
    apart = 2.0 * np.arange(len(reals))[:, None]
    order = np.argsort(reals, axis=1, kind="stable")
    values = (np.take_along_axis(reals, order, axis=1) - low) / span
    heavy = np.ones_like(values) if weights is None else np.take_along_axis(weights, order, axis=1)
    zero = (0.0 - low) / span
    pinned = keep_zeros & (reals == 0).any(axis=1)
    centroids = _start(values, clusters, heavy)
    totals = [np.concatenate(([0.0], np.cumsum(heavy * values**power))) for power in range(2)]
    flat, rows = (values + apart).reshape(-1), np.arange(len(values))
    edge = values.shape[1] * rows[:, None]
    for _ in range(_ITERATIONS):
        before = centroids
        if pinned.any():
            # The centroid next to zero is zero; the others go on around it.
            nearest = np.argmin(np.abs(centroids - zero), axis=1)
            centroids[rows[pinned], nearest[pinned]] = zero[pinned, 0]
        borders = (centroids[:, 1:] + centroids[:, :-1]) / 2 + apart
        places = np.concatenate(
            (edge, np.searchsorted(flat, borders, side="right"), edge + values.shape[1]), axis=1
        )  # fmt: skip
        size, first = (total[places[:, 1:]] - total[places[:, :-1]] for total in totals)
        filled = places[:, 1:] > places[:, :-1]
        means = np.where(filled, first / np.where(filled, np.maximum(size, 1e-300), 1), centroids)
        if pinned.any():
            means[rows[pinned], nearest[pinned]] = zero[pinned, 0]
        centroids = np.sort(means, axis=1)
        if np.max(np.abs(centroids - before)) <= _SETTLED:
            break
    found = (centroids * span + low).astype(array.dtype)
    if pinned.any():
        nearest = np.argmin(np.abs(centroids - zero), axis=1)
        found[rows[pinned], nearest[pinned]] = 0
    found = np.sort(found, axis=1)
    return found, assign(array, found)


def distinct(rows: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of different values in each row of a matrix."""
    ascending = np.sort(rows.astype(np.float64) if rows.dtype.kind == "f" else rows, axis=1)
    counts: NDArray[np.int64] = (ascending[:, 1:] != ascending[:, :-1]).sum(axis=1) + 1
    return counts


def assign(array: NDArray[Any], centroids: NDArray[Any]) -> NDArray[np.uint8]:
    """Return for each element [R, N] the index of the nearest centroid of its row [R, K], the lower among equals."""
    indices = np.empty(array.shape, np.uint8)
    middles = (centroids[:, 1:].astype(np.float64) + centroids[:, :-1]) / 2
    for row, (elements, borders) in enumerate(zip(array, middles, strict=True)):
        indices[row] = np.searchsorted(borders, elements.astype(np.float64))
    return indices


def _start(values: Reals, clusters: int, heavy: Reals) -> Reals:
    """Place centroids: along the density, or, few of them, by the best partition of cells that lie so."""
    count = values.shape[1]
    if count <= clusters:
        return np.concatenate((values, np.repeat(values[:, -1:], clusters - count, axis=1)), axis=1)
    if clusters > _FEW or count <= _GRAINS:
        return _by_density(values, clusters, heavy)
    grains = _by_density(values, _GRAINS, heavy)
    middles = (grains[:, 1:] + grains[:, :-1]) / 2
    ends = np.zeros((len(values), 1), np.int64)
    inner = np.stack(
        [np.searchsorted(row, borders, side="right") for row, borders in zip(values, middles, strict=True)]
    )
    borders = np.concatenate((ends, inner, ends + count), axis=1)
    parts = [slice(start, start + _ROWS) for start in range(0, len(values), _ROWS)]
    return np.concatenate([_best_partition(values[part], heavy[part], borders[part], clusters) for part in parts])


def _best_partition(values: Reals, heavy: Reals, borders: NDArray[np.int64], clusters: int) -> Reals:
    """Return the means of the best `clusters` groups of neighbouring cells of each row, by dynamic programming."""
    zero = np.zeros((len(values), 1))
    size, first, second = (
        np.take_along_axis(np.concatenate((zero, np.cumsum(heavy * values**power, axis=1)), axis=1), borders, axis=1)
        for power in range(3)
    )
    sizes, firsts, seconds = (total[:, None, :] - total[:, :, None] for total in (size, first, second))
    within = np.where(sizes > 0, seconds - firsts**2 / np.where(sizes > 0, sizes, 1), np.inf)
    # An empty group costs nothing: a row may have fewer groups than it is allowed.
    steps = np.arange(borders.shape[1])
    within[:, steps, steps] = 0
    best, choices = within[:, 0], []
    for _ in range(clusters - 1):
        total = best[:, :, None] + within
        choices.append(np.argmin(total, axis=1))
        best = np.min(total, axis=1)
    edges = np.empty((len(values), clusters + 1), np.int64)
    edges[:, -1] = borders.shape[1] - 1
    for place, choice in enumerate(reversed(choices)):
        edges[:, -2 - place] = np.take_along_axis(choice, edges[:, -1 - place, None], axis=1)[:, 0]
    edges[:, 0] = 0
    held, sums = (np.diff(np.take_along_axis(total, edges, axis=1), axis=1) for total in (size, first))
    lowest = np.take_along_axis(values, np.minimum(np.take_along_axis(borders, edges[:, :-1], axis=1),
                                                   values.shape[1] - 1), axis=1)  # fmt: skip
    return np.sort(np.where(held > 0, sums / np.where(held > 0, held, 1), lowest), axis=1)


def _by_density(values: Reals, clusters: int, heavy: Reals) -> Reals:
    """Place centroids along the cube root of the density (Panter and Dite 1951)."""
    count = values.shape[1]
    places = np.unique(np.linspace(0, count - 1, min(_CELLS * clusters, count - 1) + 1).astype(int))
    edges = values[:, places]
    running = np.cumsum(heavy, axis=1)[:, places]
    mass = np.cumsum(np.cbrt(np.diff(running, axis=1) * np.diff(edges, axis=1) ** 2), axis=1)
    mass = np.concatenate((np.zeros((len(mass), 1)), mass), axis=1)
    wanted = (np.arange(clusters) + 0.5) / clusters
    return np.stack([np.interp(wanted * one[-1], one, edge) for one, edge in zip(mass, edges, strict=True)])
