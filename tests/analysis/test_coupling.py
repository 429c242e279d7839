"""Axis coupling over whole networks: what can't be cut and why, the graph of axes, groups as data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import networkx
import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mopt.analysis.coupling import Axis, couplings, groups
from mopt.analysis.coupling.elements import Elements
from mopt.analysis.coupling.reshape import align
from mopt.ir import from_proto
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).parent))

from coupling_networks import IMAGE, LAST, TOKENS, network

REASONS = {
    "the output": (TOKENS, "y = MatMul(x, w)", {"w": (6, 5)}, {}, "output `y` of the model"),
    "softmax over channels": (
        TOKENS,
        "h = MatMul(x, w) s = Softmax<axis = -1>(h) y = MatMul(s, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {},
        "Softmax",
    ),
    "an operator that is not followed": (
        TOKENS,
        "h = MatMul(x, w) s = CumSum(h, axis) y = MatMul(s, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {"axis": 1},
        "operator CumSum",
    ),
    "a residual sum with an input": (
        "(float[N,T,6] x) => (float[N,T,5] y)",
        "h = MatMul(x, w) s = Add(h, x) y = MatMul(s, w2)",
        {"w": (6, 6), "w2": (6, 5)},
        {},
        "input `x` of the model",
    ),
    "neighbouring channels": (
        IMAGE,
        "h = Conv(x, w) n = LRN<size = 3>(h) y = Conv(n, w9)",
        {"w": (8, 3, 1, 1), **LAST},
        {},
        "neighbouring channels",
    ),
    "a size read at run time": (
        TOKENS,
        "h = MatMul(x, w) s = Shape(h) c = Cast<to = 1>(s) m = ReduceProd(c) k = Div(h, m) y = MatMul(k, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {},
        "read by Shape",
    ),
    "two axes at once": (
        IMAGE,
        "h = Conv(x, w) r = Reshape(h, s) p = Softmax<axis = 1>(r) b = Reshape(p, t) y = Conv(b, w9)",
        {"w": (8, 3, 1, 1), **LAST},
        {"s": [-1, 16, 32], "t": [-1, 8, 8, 8]},
        "is not followed",
    ),
    "a subgraph": (
        "(float[N,T,6] x, bool c) => (float[N,T,5] y)",
        "h = MatMul(x, w) s = If(c) <then_branch = a () => (float[p,q,o] u) { u = Relu(h) }, "
        "else_branch = e () => (float[p,q,o] v) { v = Neg(h) }> y = MatMul(s, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {},
        "holds graphs of its own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_what_cannot_be_cut_says_why(case):
    signature, body, weights, ints, reason = REASONS[case]
    found = groups(network(signature, body, weights, 17, ints))
    assert found
    assert reason in (found[0].reason or "")


def test_custom_operators_are_left_alone():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (float[N,6] x) => (float[N,5] y) '
        "{ h = MatMul(x, w) s = acme.Mystery(h) y = MatMul(s, w2) }"
    )
    for name, shape in (("w", (6, 8)), ("w2", (8, 5))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    (made, *_) = groups(from_proto(model))
    assert "acme.Mystery" in (made.reason or "")


def residual():
    body = "s = Conv(x, w1) h = Conv(s, w2) t = Add(h, s) r = Relu(t) y = Conv(r, w9)"
    return network(IMAGE, body, {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), **LAST})


def test_the_graph_of_axes():
    module = residual()
    graph = couplings(module).graph
    names = {Axis(name, 1) for name in ("s", "h", "t", "r")} | {Axis("w1", 0), Axis("w2", 0), Axis("w2", 1)}
    assert names <= networkx.node_connected_component(graph, Axis("w9", 1))
    assert Axis("x", 1) not in networkx.node_connected_component(graph, Axis("w9", 1))
    assert graph.nodes[Axis("s", 1)] == {"size": 8}


def test_a_group_as_data_and_as_text():
    (stream, last) = groups(residual())
    data = json.loads(json.dumps(stream.to_json()))
    assert data["channels"] == 8
    assert data["reason"] is None
    assert {(weight["name"], weight["axis"]) for weight in data["weights"]} == {
        ("w1", 0), ("w2", 0), ("w2", 1), ("w9", 1)
    }  # fmt: skip
    assert "8 channels" in str(stream)
    assert str(last).endswith("output `y` of the model")


def test_groups_leave_the_module_alone():
    module = residual()
    before = module.revision
    groups(module)
    assert module.revision == before


@settings(max_examples=100, deadline=None)
@given(
    pairs=st.lists(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=1), max_size=5),
    fixed=st.lists(st.integers(0, 19), max_size=3),
)
def test_sets_agree_with_connected_components(pairs, fixed):
    elements = Elements(20)
    graph = networkx.Graph()
    graph.add_nodes_from(range(20))
    if fixed:
        elements.fix(np.array(fixed), "why")
    for batch in pairs:
        elements.union(np.array([a for a, _ in batch]), np.array([b for _, b in batch]))
        graph.add_edges_from(batch)
    every = np.arange(20)
    for component in networkx.connected_components(graph):
        assert set(elements.find(every)[list(component)]) == {min(component)}
        expected = bool(component & set(fixed))
        assert set(elements.is_fixed(every)[list(component)]) == {expected}
        assert (elements.reason(min(component)) == "why") == expected


@pytest.mark.parametrize(
    ("before", "after", "segments", "left"),
    [
        (["N", 384], ["N", 12, 32], [([0], [0]), ([1], [1, 2])], []),
        (["N", 8, 4, 4], ["N", 128], [([0], [0]), ([1, 2, 3], [1])], []),
        (["N", 1, 6], ["N", 6, 1, 1], [([0], [0]), ([2], [1])], []),
        (["a", 6], ["b", 2, 3], [([1], [1, 2])], [0]),
        ([4, 6], [8, 3], [], [0, 1]),
        ([2, 6, 5], [2, 2, 3, 5], [([0], [0]), ([1], [1, 2]), ([2], [3])], []),
    ],
)
def test_axes_of_a_reshape_are_aligned(before, after, segments, left):
    found, over, _ = align(before, after)
    assert sorted(found) == sorted(segments)
    assert sorted(over) == left
