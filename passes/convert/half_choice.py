"""Deciding which nodes compute in float16 or bfloat16, from the graph and its constants alone.

A node keeps float32 for the first of these reasons that holds:

1. its operator is in `keep`, or one of its layers in `skip`;
2. it converts from integers wider than 8 bits, or from float64, whose values may lie beyond 65,504;
3. it takes a finite constant beyond 65,504 (the -3.4e38 of an attention mask), or a scalar that float16 would lose
   (the 1e-12 of a normalisation);
4. it receives values of that size: everything behind such a constant up to an operator that bounds its output;
5. it moves the batch axis in front of a matrix product: onnxruntime (1.31 at least) crashes while it optimises that
   for its CPU provider where a cast, which it inserts itself, stands between the two;
6. it is one of a run of cheap nodes that touches float32 on every side, so that float16 would only add casts.

bfloat16 has float32's range: 3 and 4 do not apply to it, and 2 does for the digits that integers would lose.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.ir.walk import nested_graphs, nested_nodes, subgraphs_of
from mopt.passes.convert.half_slots import NONE, QUANTISERS, Slots, is_float32, known, slots
from mopt.passes.convert.half_types import FLOAT16, HalfType
from numpy.typing import NDArray

_BOUNDED = frozenset(
    {"ArgMax", "ArgMin", "Clip", "Erf", "HardSigmoid", "LogSoftmax", "Sigmoid", "Sign", "Softmax", "Softsign", "Tanh"}
)
_CONTRACTIONS = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
)
_CONTROL = frozenset({"If", "Loop", "Scan"})
_EXACT_IN_HALF = frozenset(
    {ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.FLOAT16, ir.DataType.FLOAT}
)


@dataclass
class Choice:
    """The decision for every node that float32 passes through.

    Attributes:
        half: nodes that become float16, with the inputs and outputs that do.
        kept: nodes that could, and stay in float32, with the reason.
        unsupported: nodes whose operator has no float16 form, with their operator.
        half_interface: whether the model's own inputs and outputs become float16.
        kind: the 16-bit type.
    """

    half_interface: bool
    kind: HalfType = FLOAT16
    half: dict[ir.Node, Slots] = field(default_factory=dict)
    kept: dict[ir.Node, str] = field(default_factory=dict)
    unsupported: dict[ir.Node, str] = field(default_factory=dict)

    def input_is_half(self, node: ir.Node, index: int) -> bool:
        """Say whether a node takes this input in float16."""
        return index in self.half.get(node, NONE).inputs

    def output_is_half(self, node: ir.Node, index: int) -> bool:
        """Say whether a node gives this output in float16."""
        return index in self.half.get(node, NONE).outputs


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the content of an initializer or a `Constant` node's output; None for anything computed."""
    if value is None or value.is_graph_input():
        return None
    if value.is_initializer():
        return None if value.const_value is None else value.const_value.numpy()
    producer = value.producer()
    if producer is None or producer.op_type != "Constant" or producer.domain not in ("", "ai.onnx"):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def choose(
    module: Module,
    *,
    keep: Sequence[str],
    skip: Sequence[str],
    half_interface: bool,
    scales: bool = False,
    kind: HalfType = FLOAT16,
) -> Choice:
    """Decide for every node of the main graph and the graphs inside it. Functions stay as they are.

    Args:
        scales: quantisers work in float16, too.
        kind: the 16-bit type.
    """
    module.infer_shapes()
    choice = Choice(half_interface, kind)
    wide: set[ir.Value] = set()
    constants: dict[ir.Value, str | None] = {}
    for node in nested_nodes(module.graph):
        if node.op_type == "Constant" or not any(is_float32(value) for value in (*node.inputs, *node.outputs)):
            continue
        found = slots(node, module.opset, scales=scales, kind=kind)
        if not found:
            if not (known(node, module.opset) and node.op_type in _CONTROL):
                choice.unsupported[node] = node.op_type
            continue
        reason = _named(node, keep, skip) or _wide_source(node)
        if not kind.wide:
            reason = reason or _constants(node, found, constants)
        reason = reason or _batch_transpose(node)
        large = reason == _BEYOND and node.op_type not in _CONTRACTIONS
        if any(value in wide for value in node.inputs):
            reason, large = reason or "receives values beyond float16's range", True
        if large and node.op_type not in _BOUNDED:
            wide.update(node.outputs)
        if reason is None:
            choice.half[node] = found
        else:
            choice.kept[node] = reason
    _widen_control(module.graph, choice, wide)
    _keep_runs(module.graph, choice)
    return choice


_BEYOND = "takes a constant beyond float16's range"
_LOST = "takes a constant too small for float16"


def _named(node: ir.Node, keep: Sequence[str], skip: Sequence[str]) -> str | None:
    if any(fnmatch.fnmatchcase(node.op_type, pattern) for pattern in keep):
        return f"{node.op_type} is kept"
    names = (*provenance.origins(node), node.name or "")
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in skip for name in names):
        return "named by `skip`"
    return None


def _wide_source(node: ir.Node) -> str | None:
    source = node.inputs[0] if node.op_type == "Cast" else None
    if source is not None and source.dtype not in _EXACT_IN_HALF:
        return "converts from a wider type"
    return None


def _constants(node: ir.Node, found: Slots, known: dict[ir.Value, str | None]) -> str | None:
    for index in sorted(found.inputs):
        if node.op_type == "Clip" and index > 0:
            continue  # a bound beyond the range bounds nothing, and becomes the range's end
        value = node.inputs[index]
        assert value is not None
        if value not in known:
            array = constant_of(value)
            known[value] = None if array is None else _judge(array, all_of_it=node.op_type in QUANTISERS)
        if known[value] is not None:
            return known[value]
    return None


def _judge(array: NDArray[Any], *, all_of_it: bool) -> str | None:
    """Say why float16 can't hold a constant; of tensors only scales must keep their precision (`all_of_it`)."""
    if not array.size:
        return None
    finite = np.isfinite(array)
    if np.any(np.abs(array, where=finite, out=np.zeros_like(array)) > FLOAT16.largest):
        return _BEYOND
    if (array.size == 1 or all_of_it) and finite.all():
        single = array.astype(np.float64)
        if (np.abs(array.astype(np.float16).astype(np.float64) - single) > 0.01 * np.abs(single)).any():
            return _LOST
    return None


def _batch_transpose(node: ir.Node) -> str | None:
    if node.op_type != "Transpose" or "perm" not in node.attributes:
        return None
    order = list(node.attributes["perm"].as_ints())
    moved = len(order) > 2 and order[0] != 0 and 0 in order[-2:] and order[:-2] == sorted(order[:-2])
    if moved and _feeds_product(node.outputs[0]):
        return "moves the batch axis in front of a matrix product"
    return None


def _feeds_product(value: ir.Value) -> bool:
    readers = [usage.node for usage in value.uses()]
    return any(
        reader.op_type in ("MatMul", "Gemm") or (reader.op_type == "Cast" and _feeds_product(reader.outputs[0]))
        for reader in readers
    )


def _widen_control(graph: ir.Graph, choice: Choice, wide: set[ir.Value]) -> None:
    """A branch or a loop body that returns very large values makes its node's results float32."""
    for node in list(choice.half):
        if node.op_type in _CONTROL and any(value in wide for inner in subgraphs_of(node) for value in inner.outputs):
            choice.kept[node] = "receives values beyond float16's range"
            del choice.half[node]


def _keep_runs(graph: ir.Graph, choice: Choice) -> None:
    """Keep runs of cheap nodes that meet kept nodes, and nothing in float16, on every side."""
    outlets = {value for inner in nested_graphs(graph) if inner is not graph for value in inner.outputs}
    cheap = {
        node
        for node in choice.half
        if node.op_type not in _CONTRACTIONS
        and node.op_type not in _CONTROL
        and not any(outlet in outlets for outlet in node.outputs)
    }
    for run in _runs(cheap, choice):
        if _floats_around(run, choice):
            for node in run:
                choice.kept[node] = "stands between nodes kept in float32"
                del choice.half[node]


def _neighbours(node: ir.Node, choice: Choice) -> Iterable[ir.Node]:
    found = choice.half[node]
    for index in sorted(found.inputs):
        value = node.inputs[index]
        if value is not None and value.producer() is not None:
            yield value.producer()  # type: ignore[misc]
    for index in sorted(found.outputs):
        yield from (usage.node for usage in node.outputs[index].uses())


def _runs(cheap: set[ir.Node], choice: Choice) -> list[list[ir.Node]]:
    """Return the connected components of `cheap`, in the order of the graph."""
    seen: set[ir.Node] = set()
    runs = []
    for start in [node for node in choice.half if node in cheap]:
        if start in seen:
            continue
        seen.add(start)
        run, stack = [], [start]
        while stack:
            node = stack.pop()
            run.append(node)
            for neighbour in _neighbours(node, choice):
                if neighbour in cheap and neighbour not in seen:
                    seen.add(neighbour)
                    stack.append(neighbour)
        runs.append(run)
    return runs


def _floats_around(run: list[ir.Node], choice: Choice) -> bool:
    members, touches = set(run), False
    for node in run:
        for index in choice.half[node].inputs:
            value = node.inputs[index]
            assert value is not None
            producer = value.producer()
            if producer in members or constant_of(value) is not None:
                continue
            if producer is None:
                if choice.half_interface or not value.is_graph_input():
                    return False
                continue
            if choice.output_is_half(producer, value.index() or 0):
                return False
            touches = True
        for index in choice.half[node].outputs:
            value = node.outputs[index]
            if value.is_graph_output() and choice.half_interface:
                return False
            for usage in value.uses():
                if usage.node in members:
                    continue
                if choice.input_is_half(usage.node, usage.idx):
                    return False
                touches = True
    return touches
