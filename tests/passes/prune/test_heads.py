"""`prune.heads`: whole heads go, every layer keeps one, and what is left is the same network without them."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.analysis.coupling import groups
from mopt.ir import verify
from mopt.passes.contract import PassError
from mopt.passes.prune.heads import Heads
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.values import Ratio

HEADS, WIDTH = 4, 3
STEPS = {"s": [0, 0, HEADS, WIDTH], "back": [0, 0, -1]}
BLOCK = (
    "q0_ = MatMul(x_, wq_) k0_ = MatMul(x_, wk_) v0_ = MatMul(x_, wv_) q1_ = Reshape(q0_, s) k1_ = Reshape(k0_, s) "
    "v1_ = Reshape(v0_, s) q_ = Transpose<perm = [0,2,1,3]>(q1_) k_ = Transpose<perm = [0,2,3,1]>(k1_) "
    "v_ = Transpose<perm = [0,2,1,3]>(v1_) a_ = MatMul(q_, k_) b_ = Mul(a_, scale) p_ = Softmax<axis = -1>(b_) "
    "c_ = MatMul(p_, v_) m_ = Transpose<perm = [0,2,1,3]>(c_) f_ = Reshape(m_, back) o_ = MatMul(f_, wo_) "
)


@pytest.fixture
def network(module_of):
    """Two layers of attention with residual sums; the second has two heads that hardly matter."""
    random = np.random.default_rng(0)
    body, weights, last = "", {"scale": np.array(0.5)}, "x"
    for layer in "AB":
        text = BLOCK.replace("x_", last).replace("_", layer)
        body += f"{text}r{layer} = Add(o{layer}, {last}) "
        last = f"r{layer}"
        for name, shape in (("wq", (6, 12)), ("wk", (6, 12)), ("wv", (6, 12)), ("wo", (12, 6))):
            weights[name + layer] = random.normal(size=shape)
    for name in ("wqB", "wkB", "wvB"):
        weights[name][:, [0, 1, 2, 6, 7, 8]] *= 0.01
    weights["woB"][[0, 1, 2, 6, 7, 8]] *= 0.01
    weights["end"] = random.normal(size=(6, 5))
    body += f"y = MatMul({last}, end)"
    return module_of("(float[N,T,6] x) => (float[N,T,5] y)", body, weights, steering=STEPS)


def heads(module):
    return [group.channels for group in groups(module) if group.unit % WIDTH == 0 and group.reason is None]


def test_a_quarter_of_every_layer(network, context):
    result = Heads(Ratio(0.25)).run(network.clone(), context())
    assert verify(result.module) == []
    assert heads(network) == [4, 4]
    assert heads(result.module) == [3, 3]
    assert "2 of 8 heads cut" in result.notes[0].message
    feeds = seeded_inputs(network)
    (before,), (after,) = (OrtRunner(one).run(feeds).values() for one in (network, result.module))
    assert before.shape == after.shape


def test_the_least_important_go_first_and_change_little(network, context):
    result = Heads(Ratio(0.25), scope="global").run(network.clone(), context())
    weights = {weight.name: weight.numpy() for weight in network.weights()}
    kept = {weight.name: weight.numpy() for weight in result.module.weights()}
    np.testing.assert_array_equal(kept["wqA"], weights["wqA"])
    np.testing.assert_array_equal(kept["wvB"], weights["wvB"][:, [3, 4, 5, 9, 10, 11]])
    np.testing.assert_array_equal(kept["woB"], weights["woB"][[3, 4, 5, 9, 10, 11]])
    feeds = seeded_inputs(network)
    (before,), (after,) = (OrtRunner(one).run(feeds).values() for one in (network, result.module))
    np.testing.assert_allclose(after, before, atol=2e-3 * np.abs(before).max())


@pytest.mark.parametrize("scope", ["local", "global"])
def test_every_layer_keeps_one(network, context, scope):
    module = Heads(Ratio(0.99), scope=scope).run(network.clone(), context()).module
    shapes = {weight.name: weight.shape for weight in module.weights()}
    assert [shapes[name] for name in ("wqA", "wqB", "woA")] == [(6, WIDTH), (6, WIDTH), (WIDTH, 6)]
    assert verify(module) == []
    with pytest.raises(PassError, match=r"one head only|no layer makes heads"):
        Heads(Ratio(0.5)).run(module, context())


def test_layers_are_chosen_by_name(network, context):
    assert heads(Heads(Ratio(0.5), only=("wqA",)).run(network.clone(), context()).module) == [2, 4]
    assert heads(Heads(Ratio(0.5), skip=("wqA",)).run(network.clone(), context()).module) == [4, 2]


@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "random"])
def test_two_runs_give_identical_bits(network, context, bits, criterion):
    first, second = (Heads(Ratio(0.5), criterion=criterion).run(network.clone(), context()).module for _ in range(2))
    assert bits(first) == bits(second)


def test_a_network_without_attention(module_of, context):
    module = module_of("(float[N,6] x) => (float[N,5] y)", "h = MatMul(x, w) y = Softmax(h)", {"w": np.ones((6, 5))})
    with pytest.raises(PassError, match="no attention") as raised:
        Heads(Ratio(0.5)).run(module, context())
    assert raised.value.help


@pytest.mark.parametrize(("amount", "message"), [(1.0, "whole layers")])
def test_all_heads_are_refused(network, context, amount, message):
    with pytest.raises(PassError, match=message):
        Heads(Ratio(amount)).run(network, context())


def test_weights_without_a_magnitude_are_refused(network, context):
    weight = next(weight for weight in network.weights() if weight.name == "wkA")
    array = weight.numpy().copy()
    array[0, 0] = np.nan
    weight.replace(array)
    with pytest.raises(PassError, match="NaN") as raised:
        Heads(Ratio(0.5)).run(network, context())
    assert raised.value.node
