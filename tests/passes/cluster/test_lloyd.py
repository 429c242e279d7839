"""k-means in one dimension against the exact optimum, and against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mopt.passes.cluster.lloyd import inertia, kmeans
from sklearn.cluster import KMeans as Reference


def optimum(array: np.ndarray[Any, Any], clusters: int) -> float:
    """The least inertia, by dynamic programming over the sorted values."""
    values = np.sort(array.astype(np.float64))
    first, second = (np.concatenate(([0.0], np.cumsum(values**power))) for power in (1, 2))
    ends = np.arange(values.size + 1)
    size = np.maximum(ends[None] - ends[:, None], 1)
    within = second[None] - second[:, None] - (first[None] - first[:, None]) ** 2 / size
    within[ends[None] < ends[:, None]] = np.inf
    best = within[0]
    for _ in range(clusters - 1):
        best = np.min(best[:, None] + within, axis=0)
    return float(best[-1])


SHAPES = {
    "normal": lambda random, size: random.normal(size=size),
    "heavy tails": lambda random, size: random.standard_t(3, size=size),
    "two peaks": lambda random, size: np.where(random.random(size) < 0.3, -5, 1) + random.normal(size=size) * 0.2,
}


@pytest.mark.parametrize("clusters", [2, 5, 16])
@pytest.mark.parametrize("shape", SHAPES)
def test_close_to_the_optimum(shape: str, clusters: int) -> None:
    array = SHAPES[shape](np.random.default_rng(3), 600).astype(np.float32)
    centroids, indices = kmeans(array, clusters, keep_zeros=True)
    assert centroids.size == clusters
    assert inertia(array, centroids, indices) <= 1.01 * optimum(array, clusters)


@pytest.mark.parametrize("shape", SHAPES)
def test_as_good_as_scikit_learn_at_256(shape: str) -> None:
    array = SHAPES[shape](np.random.default_rng(5), 20_000).astype(np.float32)
    reference = Reference(256, n_init=1, random_state=0).fit(array.reshape(-1, 1))
    centroids, indices = kmeans(array, 256, keep_zeros=True)
    assert inertia(array, centroids, indices) <= 1.05 * reference.inertia_


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 400), elements=st.floats(-(2.0**90), 2.0**90, width=32)),
    st.integers(2, 40),
    st.booleans(),
)
def test_invariants(array: np.ndarray[Any, Any], clusters: int, keep_zeros: bool) -> None:
    centroids, indices = kmeans(array, clusters, keep_zeros=keep_zeros)
    assert 1 <= centroids.size <= clusters
    assert np.all(np.diff(centroids) > 0)
    assert set(np.unique(indices)) == set(range(centroids.size))
    if keep_zeros:
        assert np.all(centroids[indices][array == 0] == 0)
    distances = np.abs(array[:, None].astype(np.float64) - centroids.astype(np.float64))
    nearest = distances.min(axis=1)
    np.testing.assert_allclose(distances[np.arange(array.size), indices], nearest, rtol=1e-6)
