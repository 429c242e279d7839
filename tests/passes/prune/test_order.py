"""Pruning among other passes: weights stored as codebooks, and what the checker says of promises."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.passes.cluster.expand import Expand
from mopt.passes.cluster.kmeans import KMeans
from mopt.passes.contract import PassError
from mopt.passes.prune.channels import Channels
from mopt.passes.prune.heads import Heads
from mopt.passes.prune.magnitude import Magnitude
from mopt.passes.prune.nm import NM
from mopt.values import Ratio


@pytest.fixture
def network(module_of):
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(64, 64)), "v": random.normal(size=(64, 64)), "u": random.normal(size=(64, 8))}
    return module_of(
        "(float[N,64] x) => (float[N,8] y)",
        "h = MatMul(x, w) r = Relu(h) k = MatMul(r, v) q = Relu(k) y = MatMul(q, u)",
        weights,
    )


def test_codebooks_are_not_cut(network, context):
    clustered = KMeans(clusters=16).run(network, context()).module
    with pytest.raises(PassError, match="stored as codebooks") as raised:
        Channels(Ratio(0.5)).run(clustered.clone(), context())
    assert "cluster.expand" in raised.value.help
    dense = Expand().run(clustered, context()).module
    smaller = Channels(Ratio(0.5)).run(dense, context()).module
    shapes = {weight.name: weight.shape for weight in smaller.weights()}
    assert shapes["v"] == (32, 32)
    values = {weight.name: np.unique(weight.numpy()).size for weight in smaller.weights()}
    assert values["v"] <= 16


@pytest.mark.parametrize("cls", [Channels, Heads, Magnitude, NM])
def test_clusters_do_not_outlive_pruning(cls):
    assert "clusters" in cls.breaks


def test_zeros_are_one_value_more(network, context):
    dense = Expand().run(KMeans(clusters=4).run(network, context()).module, context()).module
    before = {weight.name: np.unique(weight.numpy()).size for weight in dense.weights()}
    pruned = Magnitude(Ratio(0.1)).run(dense, context()).module
    after = {weight.name: np.unique(weight.numpy()).size for weight in pruned.weights()}
    assert (before["v"], after["v"]) == (4, 5)
