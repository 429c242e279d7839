"""Random edit scripts on random graphs are recovered exactly, under other names and in another order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mopt.diff import Diff, diff
from mopt.ir import Module, from_proto
from onnx import TensorProto, helper, numpy_helper

UNARY = ("Relu", "Sigmoid", "Tanh", "Neg", "Exp")


@dataclass(frozen=True)
class Step:
    """One node of a sketch: operator, what it reads (numbers of earlier steps, -1 is the input), a seed, an alpha."""

    op: str
    reads: tuple[int, ...]
    seed: int = 0
    alpha: float = 0.1
    serial: int = field(default=0, compare=False)


@st.composite
def sketches(draw: st.DrawFn) -> list[Step]:
    steps: list[Step] = []
    for number in range(draw(st.integers(3, 12))):
        op = draw(st.sampled_from((*UNARY, "Add", "Mul", "Sub", "MatMul", "MatMul", "LeakyRelu")))
        # Mostly chains with some branches, as networks are.
        count = 2 if op in ("Add", "Mul", "Sub") else 1
        reads = tuple(
            draw(st.sampled_from([number - 1, number - 1, max(-1, number - 2), draw(st.integers(-1, number - 1))]))
            for _ in range(count)
        )
        steps.append(Step(op, reads, seed=number + 1, alpha=round(0.1 + number / 100, 3)))
    return steps


def build(steps: list[Step], *, tag: str = "n", seed: int = 0) -> Module:
    """Make a module; `tag` goes into all names, `seed` shuffles the nodes."""
    name = {-1: "x", **{i: f"{tag}{i}" for i in range(len(steps))}}
    nodes, weights = [], []
    for i, step in enumerate(steps):
        inputs = [name[read] for read in step.reads]
        attributes: dict[str, float] = {"alpha": step.alpha} if step.op == "LeakyRelu" else {}
        if step.op == "MatMul":
            inputs.append(f"{tag}_w{i}")
            array = np.random.default_rng(step.seed).standard_normal((4, 4)).astype(np.float32)
            weights.append(numpy_helper.from_array(array, inputs[-1]))
        nodes.append(helper.make_node(step.op, inputs, [name[i]], name=f"{tag}_node{i}", **attributes))
    leaves = sorted(set(range(len(steps))) - {read for step in steps for read in step.reads})
    for place, leaf in enumerate(leaves):
        nodes.append(helper.make_node("Abs", [name[leaf]], [f"y{place}"], name=f"{tag}_out{place}"))
    graph = helper.make_graph(
        _shuffled(nodes, random.Random(seed)) if seed else nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [2, 4]) for i in range(len(leaves))],
        weights,
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def _shuffled(nodes: list[onnx.NodeProto], rng: random.Random) -> list[onnx.NodeProto]:
    waiting, known, ordered = list(nodes), {"x", ""}, []
    while waiting:
        ready = [n for n in waiting if all(i in known or "_w" in i for i in n.input)]
        node = rng.choice(ready)
        waiting.remove(node)
        known.update(node.output)
        ordered.append(node)
    return ordered


def insert(steps: list[Step], at: int, op: str) -> list[Step]:
    """Put a unary node behind step `at`, before all its readers."""
    moved = [replace(s, reads=tuple(_after(r, at) for r in s.reads)) for s in steps]
    return [*moved[: at + 1], Step(op, (at,)), *moved[at + 1 :]]


def _after(read: int, at: int) -> int:
    return read + 1 if read >= at else read


def drop(steps: list[Step], at: int) -> list[Step]:
    """Take a unary node out; its readers read what it read."""
    above = steps[at].reads[0]
    kept = [s for i, s in enumerate(steps) if i != at]
    return [replace(s, reads=tuple(above if r == at else r - (r > at) for r in s.reads)) for s in kept]


def net(difference: Diff) -> tuple[int, int]:
    """Count the nodes that truly went and came, those kept inside groups left out."""
    gone = sum(len(g.before) - len(g.kept) for g in difference.groups)
    new = sum(len(g.after) - len(g.kept) for g in difference.groups)
    return gone, new


def tally(difference: Diff) -> dict[str, int]:
    """Count what a diff says, by kind."""
    gone, new = net(difference)
    return {
        "removed": gone,
        "added": new,
        "attributes": sum(len(c.attributes) for c in difference.changed),
        "rewired": sum(len(c.rewired) for c in difference.changed),
        "weights": len(difference.weights),
    }


PROFILE = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much], derandomize=True
)


def compared(before: list[Step], after: list[Step], seed: int) -> dict[str, int]:
    a, b = build(before), build(after, tag="q", seed=seed)
    difference = diff(a, b)
    assert diff(b, a, labels=("after", "before")) == difference.mirrored()
    counted = {kind: count for kind, count in tally(difference).items() if count}
    assert difference.matched == difference.before.nodes - counted.get("removed", 0)
    assert difference.matched == difference.after.nodes - counted.get("added", 0)
    assert not difference.interface and not difference.properties
    return counted


@PROFILE
@given(sketches(), st.integers(1, 99))
def test_other_names_and_order_are_no_change(steps: list[Step], seed: int) -> None:
    assert compared(steps, steps, seed) == {}


@PROFILE
@given(sketches(), st.data(), st.integers(1, 99))
def test_inserted_node(steps: list[Step], data: st.DataObject, seed: int) -> None:
    at = data.draw(st.integers(0, len(steps) - 1))
    op = data.draw(st.sampled_from(("Relu", "Identity")))
    assert compared(steps, insert(steps, at, op), seed) == {"added": 1}


@PROFILE
@given(sketches(), st.data(), st.integers(1, 99))
def test_dropped_node(steps: list[Step], data: st.DataObject, seed: int) -> None:
    unary = [i for i, s in enumerate(steps) if s.op in UNARY and not _is_leaf(steps, i)]
    if unary:
        assert compared(steps, drop(steps, data.draw(st.sampled_from(unary))), seed) == {"removed": 1}


@PROFILE
@given(sketches(), st.data(), st.integers(1, 99))
def test_changed_attribute(steps: list[Step], data: st.DataObject, seed: int) -> None:
    leaky = [i for i, s in enumerate(steps) if s.op == "LeakyRelu"]
    if leaky:
        at = data.draw(st.sampled_from(leaky))
        after = [replace(s, alpha=0.77) if i == at else s for i, s in enumerate(steps)]
        assert compared(steps, after, seed) == {"attributes": 1}


@PROFILE
@given(sketches(), st.data(), st.integers(1, 99))
def test_changed_weight(steps: list[Step], data: st.DataObject, seed: int) -> None:
    weighted = [i for i, s in enumerate(steps) if s.op == "MatMul"]
    if weighted:
        at = data.draw(st.sampled_from(weighted))
        after = [replace(s, seed=1000) if i == at else s for i, s in enumerate(steps)]
        assert compared(steps, after, seed) == {"weights": 1}


@PROFILE
@given(sketches(), st.data(), st.integers(1, 99))
def test_rewired_input(steps: list[Step], data: st.DataObject, seed: int) -> None:
    at = data.draw(st.integers(1, len(steps) - 1))
    slot = data.draw(st.integers(0, len(steps[at].reads) - 1))
    target = data.draw(st.integers(-1, at - 1))
    reads = tuple(target if i == slot else r for i, r in enumerate(steps[at].reads))
    after = [replace(s, reads=reads) if i == at else s for i, s in enumerate(steps)]
    same = reads == steps[at].reads or (steps[at].op in ("Add", "Mul") and sorted(reads) == sorted(steps[at].reads))
    if not same and _leaves(after) == _leaves(steps):
        found = compared(steps, after, seed)
        # Where two nodes compute one value, reading the other one of them can be told in more than one way.
        assert found in ({"rewired": 1}, {}) or sum(found.values()) <= 1


@PROFILE
@given(sketches(), st.data(), st.integers(1, 99))
def test_scripts_of_several_edits_are_told_with_no_more_changes_than_were_made(
    steps: list[Step], data: st.DataObject, seed: int
) -> None:
    edits = data.draw(st.lists(st.sampled_from(("insert", "drop", "attribute", "weight")), min_size=2, max_size=3))
    after, expected = steps, 0
    for edit in edits:
        unary = [i for i, s in enumerate(after) if s.op in UNARY and not _is_leaf(after, i)]
        leaky = [i for i, s in enumerate(after) if s.op == "LeakyRelu"]
        weighted = [i for i, s in enumerate(after) if s.op == "MatMul"]
        if edit == "insert":
            after = insert(
                after, data.draw(st.integers(0, len(after) - 1)), data.draw(st.sampled_from(("Relu", "Identity")))
            )
        elif edit == "drop" and unary:
            after = drop(after, data.draw(st.sampled_from(unary)))
        elif edit == "attribute" and leaky:
            at = data.draw(st.sampled_from(leaky))
            after = [replace(s, alpha=s.alpha + 0.5) if i == at else s for i, s in enumerate(after)]
        elif edit == "weight" and weighted:
            at = data.draw(st.sampled_from(weighted))
            after = [replace(s, seed=s.seed + 1000) if i == at else s for i, s in enumerate(after)]
        else:
            continue
        expected += 1
    assert sum(compared(steps, after, seed).values()) <= expected


def _is_leaf(steps: list[Step], at: int) -> bool:
    return not any(at in step.reads for step in steps)


def _leaves(steps: list[Step]) -> list[int]:
    return [i for i in range(len(steps)) if _is_leaf(steps, i)]


@pytest.mark.parametrize("op", ["Add", "Sub"])
def test_order_of_inputs_counts_only_where_it_means_something(op: str) -> None:
    before = [Step("Relu", (-1,)), Step("Sigmoid", (-1,)), Step(op, (0, 1))]
    after = [*before[:2], Step(op, (1, 0))]
    assert compared(before, after, 1) == ({} if op == "Add" else {"rewired": 2})
