"""Cutting a graph between two runtimes: convex, acyclic, the fewest parts, and they compute what the whole does."""

from __future__ import annotations

from functools import cache

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mopt.analysis.partition import alternate, partition
from mopt.ir import from_proto, verify
from mopt.ir.cut import cut
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from onnx import TensorProto, helper, numpy_helper

F = TensorProto.FLOAT


@st.composite
def coloured(draw):
    """An acyclic graph of up to 7 nodes, and those of its nodes that are accepted."""
    size = draw(st.integers(1, 7))
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(size))
    graph.add_edges_from((a, b) for b in range(size) for a in range(b) if draw(st.integers(0, 2)) == 0)
    return graph, frozenset(node for node in range(size) if draw(st.booleans()))


def fewest(graph, accepted):
    """Try every schedule: the fewest (accepted groups, other groups), by sets of nodes that are done."""

    @cache
    def cost(done, kind):
        """What is left to pay when a group of this kind is open and `done` has run."""
        if len(done) == len(graph):
            return (0, 0)
        options = []
        for node in graph:
            if node in done or not set(graph.predecessors(node)) <= done:
                continue
            mine = node in accepted
            engines, others = cost(done | {node}, mine)
            new = mine is not kind
            options.append((engines + (new and mine), others + (new and not mine)))
        return min(options)

    return cost(frozenset(), None)


@settings(max_examples=300, deadline=None)
@given(coloured())
def test_groups_are_the_fewest_and_run_in_order(case):
    graph, accepted = case
    groups = alternate(graph, accepted)
    done: set[int] = set()
    for kind, members in groups:
        for node in members:
            assert (node in accepted) is kind
            assert set(graph.predecessors(node)) <= done
            done.add(node)
    assert len(done) == len(graph) == sum(len(members) for _, members in groups)
    kinds = [kind for kind, _ in groups]
    assert (kinds.count(True), kinds.count(False)) == fewest(graph, accepted)


def module(nodes, inputs, outputs, constants=None):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(*port) for port in inputs],
        [helper.make_tensor_value_info(*port) for port in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )  # fmt: skip
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


@pytest.fixture
def crossed():
    """Two convolutions around a refused node; a skip connection and a shape cross all three parts."""
    weight = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="before", **pads),
        helper.make_node("Shape", ["a"], ["shape"], name="shape"),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], name="batch"),
        helper.make_node("Concat", ["batch", "rest"], ["flat_shape"], name="flat_shape", axis=0),
        helper.make_node("Erf", ["a"], ["b"], name="refused"),
        helper.make_node("Add", ["a", "b"], ["c"], name="skip"),
        helper.make_node("Conv", ["c", "w"], ["d"], name="after", **pads),
        helper.make_node("Reshape", ["d", "flat_shape"], ["y"], name="flat"),
    ]
    constants = {"w": weight, "zero": np.array([0]), "rest": np.array([-1])}
    return module(nodes, [("x", F, ["N", 4, 5, 6])], [("y", F, ["N", "K"])], constants)


def names(nodes):
    return [node.name for node in nodes]


def test_shapes_travel_with_their_users(crossed):
    refused = [node for node in crossed.graph if node.name == "refused"]
    first, middle, last = partition(crossed, refused)
    assert (first.accepted, middle.accepted, last.accepted) == (True, False, True)
    assert (names(first.nodes), names(middle.nodes)) == (["before"], ["refused"])
    assert names(last.nodes) == ["skip", "after", "flat"]
    assert names(last.carried) == ["shape", "batch", "flat_shape"] and not first.carried
    assert [value.name for value in last.inputs] == ["a", "b"], "no shape crosses"
    assert [value.name for value in first.outputs] == ["a"]


def test_parts_in_sequence_are_the_whole(crossed):
    refused = [node for node in crossed.graph if node.name == "refused"]
    for sizes in ({"N": 1}, {"N": 3}):
        feeds = seeded_inputs(crossed, sizes)
        known = dict(feeds)
        for part in partition(crossed, refused):
            alone = cut(crossed, {*part.nodes, *part.carried}, part.inputs, part.outputs)
            assert not verify(alone)
            known |= OrtRunner(alone).run({value.name: known[value.name] for value in part.inputs})
        np.testing.assert_allclose(known["y"], OrtRunner(crossed).run(feeds)["y"], atol=1e-5)
    assert names(crossed.graph)[0] == "before", "the whole is left as it was"
    assert not verify(crossed)


def test_a_few_cheap_nodes_are_not_worth_a_change_of_runtime():
    chain = [helper.make_node("Det", ["x"], ["h0"], name="det")]
    chain += [helper.make_node("Relu", [f"h{i}"], [f"h{i + 1}"], name=f"relu{i}") for i in range(3)]
    graph = module(chain, [("x", F, [2, 3, 3])], [("h3", F, [2])])
    refused = [node for node in graph.graph if node.op_type == "Det"]
    assert [part.accepted for part in partition(graph, refused)] == [False]
    assert [part.accepted for part in partition(graph, refused, smallest=3)] == [False, True]


def test_what_is_random_is_not_computed_twice():
    nodes = [
        helper.make_node("RandomNormal", [], ["r"], name="random", shape=[2], seed=1.0),
        helper.make_node("Add", ["x", "r"], ["a"], name="first"),
        helper.make_node("Erf", ["a"], ["b"], name="refused"),
        helper.make_node("Add", ["b", "r"], ["y"], name="second"),
    ]
    graph = module(nodes, [("x", F, [2])], [("y", F, [2])])
    parts = partition(graph, [node for node in graph.graph if node.name == "refused"], smallest=1)
    assert [names(part.nodes) for part in parts] == [["random", "first"], ["refused"], ["second"]]
    assert [value.name for value in parts[0].outputs] == ["r", "a"]


def test_branches_keep_what_they_capture():
    """A part with an `If` is fed what only the graphs inside it use."""
    branch = lambda op: helper.make_graph(  # noqa: E731
        [helper.make_node(op, ["a", "x"], [f"out_{op}"], name=op)], op, [],
        [helper.make_tensor_value_info(f"out_{op}", F, [2])],
    )  # fmt: skip
    nodes = [
        helper.make_node("Erf", ["x"], ["a"], name="refused"),
        helper.make_node("ReduceMax", ["x"], ["m"], name="max", keepdims=0),
        helper.make_node("Greater", ["m", "half"], ["c"], name="greater"),
        helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch("Add"), else_branch=branch("Mul")),
    ]
    graph = module(nodes, [("x", F, [2])], [("y", F, [2])], {"half": np.float32(0.5)})
    parts = partition(graph, [node for node in graph.graph if node.name == "refused"], smallest=1)
    last = parts[-1]
    assert {value.name for value in last.inputs} == {"a", "x"}
    feeds = seeded_inputs(graph)
    known = dict(feeds)
    for part in parts:
        alone = cut(graph, {*part.nodes, *part.carried}, part.inputs, part.outputs)
        known |= OrtRunner(alone).run({value.name: known[value.name] for value in part.inputs})
    np.testing.assert_allclose(known["y"], OrtRunner(graph).run(feeds)["y"], atol=1e-6)
