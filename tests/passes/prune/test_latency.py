"""`prune.channels(of=latency)`: the search, on made-up measurements; that it really measures is seen in a benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.analysis.cost import cost
from mopt.analysis.coupling import couplings
from mopt.passes.contract import PassError
from mopt.passes.prune import latency
from mopt.passes.prune.channels import Channels
from mopt.passes.prune.channels_cut import cut
from mopt.passes.prune.channels_search import by_time
from mopt.passes.prune.latency import Measured, Stopwatch
from mopt.values import Ratio

WEIGHTS = {
    "w1": np.random.default_rng(0).normal(size=(64, 3, 3, 3)),
    "w2": np.random.default_rng(1).normal(size=(48, 64, 3, 3)),
    "w3": np.random.default_rng(2).normal(size=(5, 48, 1, 1)),
}
BODY = "h = Conv(x, w1) r = Relu(h) k = Conv(r, w2) q = Relu(k) y = Conv(q, w3)"


@pytest.fixture
def network(module_of):
    return module_of("(float[N,3,12,12] x) => (float[N,5,a,b] y)", BODY, WEIGHTS)


def by_macs(self, atoms):
    """A machine whose time is its MACs, and a little noise."""
    smaller = self._module.clone()
    cut(smaller, couplings(smaller), atoms)
    ratio = cost(smaller).macs / cost(self._module).macs
    return Measured(ratio, ratio - 0.01, ratio + 0.01, 1.0)


def test_the_smallest_cut_that_saves_the_time_is_taken(network, context, monkeypatch):
    monkeypatch.setattr(Stopwatch, "measure", by_macs)
    result = Channels(Ratio(0.3), of="latency").run(network.clone(), context())
    saved = 1 - cost(result.module).macs / cost(network).macs
    assert 0.31 <= saved < 0.37
    (note,) = [note.message for note in result.notes if "measured" in note.message]
    assert f"{1 - saved:.2f} × the time" in note
    assert "one thread" in note
    assert "another machine" in note


def test_a_share_of_the_time_that_cannot_be_saved(network, context, monkeypatch):
    monkeypatch.setattr(Stopwatch, "measure", by_macs)
    with pytest.raises(PassError, match=r"still takes 0\.0. × the time"):
        Channels(Ratio(0.995), of="latency").run(network.clone(), context())


@pytest.mark.parametrize("enough", [1, 2, 17, 31, 32])
def test_the_search_ends_at_the_first_share_that_holds(enough):
    at = lambda share: [np.arange(round(share * 32))]  # noqa: E731

    def measure(atoms):
        low = 0.5 if len(atoms) >= enough else 0.9
        return Measured(low, low, low, 1.0)

    taken = by_time(at, measure, 0.3).taken
    assert len(taken[0]) == enough


def test_what_is_timed_is_the_cut_model_against_the_whole_one(network, context, monkeypatch):
    seen = {}
    true = latency.profile

    def spy(candidates, feeds, **options):
        seen.update(candidates=dict(candidates), feeds=feeds, options=options)
        return true(candidates, feeds, **(options | {"runs": 3, "warmup": 0}))

    monkeypatch.setattr(latency, "profile", spy)
    stopwatch = Stopwatch(network, context(bindings={"N": 2}))
    coupled = couplings(network)
    found = stopwatch.measure(coupled.ids(network.graph.initializers["w1"], 0)[:10])
    stopwatch.close()
    assert found.low <= found.ratio <= found.high
    assert found.milliseconds > 0
    assert set(seen["candidates"]) == {"whole", "cut"}
    assert seen["options"]["baselines"] == {"cut": "whole"}
    assert seen["feeds"]["cut"]["x"].shape == (2, 3, 12, 12)


def test_a_model_that_does_not_run_is_told(module_of, context):
    module = module_of(
        "(float[N,3,4,4] x) => (float[N,5,a,b] y)", f"u = acme.Own(x) {BODY.replace('(x,', '(u,')}", WEIGHTS
    )
    with pytest.raises(PassError, match="can't be timed") as raised:
        Stopwatch(module, context())
    assert raised.value.help
