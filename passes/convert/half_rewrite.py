"""Rewriting a graph to the precisions that `half_choice` decided: types, constants, and casts where they meet.

Every float32 value is produced in one precision. Who needs the other one reads a cast that stands right behind the
producer and is shared by all who need it; constants get a second copy instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs, nested_nodes, subgraphs_of
from mopt.passes.convert.half_choice import Choice, constant_of
from mopt.passes.convert.half_slots import is_float32
from mopt.passes.convert.half_types import HalfType

_SINGLE = ir.DataType.FLOAT


@dataclass
class Outcome:
    """What the rewriting did.

    Attributes:
        casts: casts between the two precisions in the result.
        converted: elements of constants stored in 16 bits.
        vanished: elements of those that were too small for float16 and became zero, by constant.
    """

    modified: bool = False
    casts: int = 0
    converted: int = 0
    vanished: dict[str, int] = field(default_factory=dict)


def apply(module: Module, choice: Choice) -> Outcome:
    """Rewrite the main graph of `module`, and the graphs inside it, in place."""
    return _Rewriter(module, choice).run()


@dataclass(frozen=True)
class _Use:
    """One place that reads a value: a node's input, or an output of a graph."""

    half: bool
    node: ir.Node | None = None
    graph: ir.Graph | None = None
    index: int = 0

    def redirect(self, value: ir.Value) -> None:
        if self.node is not None:
            self.node.replace_input_with(self.index, value)
        elif self.graph is not None:
            self.graph.outputs[self.index] = value


class _Rewriter:
    def __init__(self, module: Module, choice: Choice) -> None:
        self.graph = module.graph
        self.choice = choice
        self.kind = choice.kind
        self.outcome = Outcome()
        graphs = list(nested_graphs(module.graph))
        self.names = {value.name for graph in graphs for value in graph_values(graph) if value.name}
        self.node_names = {node.name for node in nested_nodes(module.graph) if node.name}
        self.outlets: dict[ir.Value, list[_Use]] = {}
        self.half_inlets: set[ir.Value] = set()
        for node in nested_nodes(module.graph):
            for inner in subgraphs_of(node):
                self._connect(node, inner)
        for index, value in enumerate(module.graph.outputs):
            use = _Use(choice.half_interface, graph=module.graph, index=index)
            self.outlets.setdefault(value, []).append(use)
        if choice.half_interface:
            self.half_inlets.update(module.graph.inputs)

    def _connect(self, node: ir.Node, inner: ir.Graph) -> None:
        """Note which inputs and outputs of an inner graph are half: what its node says of its own."""
        shift = 1 if node.op_type == "Loop" else 0  # a loop's body also returns its condition
        for index, value in enumerate(inner.outputs):
            half = self.choice.output_is_half(node, index - shift)
            self.outlets.setdefault(value, []).append(_Use(half, graph=inner, index=index))
        for index, value in enumerate(inner.inputs):
            if self.choice.input_is_half(node, index):
                self.half_inlets.add(value)

    def run(self) -> Outcome:
        for value in self._values():
            if not is_float32(value) or (value.is_initializer() and value.is_graph_input()):
                continue
            if constant_of(value) is not None:
                self._constant(value)
            else:
                self._computed(value)
        for node in self.choice.half:
            self.outcome.modified = True
            _set_attributes(node, self.kind)
            provenance.inherit([node], [node], self.kind.by)
        _remove_idle_casts(self.graph, self.kind.dtype)
        return self.outcome

    def _values(self) -> list[ir.Value]:
        return [value for graph in nested_graphs(self.graph) for value in graph_values(graph)]

    def _uses(self, value: ir.Value) -> Iterator[_Use]:
        for usage in value.uses():
            half = self.choice.input_is_half(usage.node, usage.idx)
            yield _Use(half, node=usage.node, index=usage.idx)
        yield from self.outlets.get(value, ())

    def _constant(self, value: ir.Value) -> None:
        uses = list(self._uses(value))
        halves = [use for use in uses if use.half]
        if not halves:
            return
        tensor = self._half_tensor(value)
        producer = value.producer()
        if len(halves) == len(uses):
            if producer is None:
                value.const_value = tensor
            else:
                _hold(producer, tensor)
            value.type = ir.TensorType(self.kind.dtype)
            return
        name = fresh(f"{value.name}_{self.kind.name}", self.names)
        if producer is None:
            copy = ir.Value(name=name, shape=value.shape, type=ir.TensorType(self.kind.dtype), const_value=tensor)
            tensor.name = name
            graph = value.graph
            assert isinstance(graph, ir.Graph)
            graph.initializers[name] = copy
        else:
            node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], name=fresh(name, self.node_names))
            copy = node.outputs[0]
            copy.name, copy.shape, copy.type = name, value.shape, ir.TensorType(self.kind.dtype)
            assert producer.graph is not None
            producer.graph.insert_after(producer, node)
            provenance.inherit([node], [producer], self.kind.by)
        for use in halves:
            use.redirect(copy)

    def _half_tensor(self, value: ir.Value) -> ir.Tensor[Any]:
        array = constant_of(value)
        assert array is not None
        # Only what bounds a range is beyond it here, and the range's own end bounds it just as well.
        half = self.kind.cast(array)
        self.outcome.converted += half.size
        vanished = int(np.count_nonzero(array) - np.count_nonzero(half))
        if vanished:
            self.outcome.vanished[value.name or ""] = vanished
        return ir.Tensor(half, dtype=self.kind.dtype, name=value.name)

    def _computed(self, value: ir.Value) -> None:
        producer = value.producer()
        if producer is None:
            half = value in self.half_inlets
        else:
            half = self.choice.output_is_half(producer, value.index() or 0)
        others = [use for use in self._uses(value) if use.half != half]
        if half:
            value.type = ir.TensorType(self.kind.dtype)
            self.outcome.modified = True
        if not others:
            return
        cast = self._cast(value, half)
        for use in others:
            use.redirect(cast)
        if any(use.graph is self.graph for use in others):
            # The interface keeps its names: the cast takes the output's, and the value gets another.
            self._swap_names(value, cast)

    def _cast(self, value: ir.Value, from_half: bool) -> ir.Value:
        to = _SINGLE if from_half else self.kind.dtype
        label = fresh(f"{value.name}_{'float32' if from_half else self.kind.name}", self.names)
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(to))], name=fresh(f"{label}/Cast", self.node_names))
        output = node.outputs[0]
        output.name, output.shape, output.type = label, value.shape, ir.TensorType(to)
        producer = value.producer()
        if producer is not None and producer.graph is not None:
            producer.graph.insert_after(producer, node)
            provenance.inherit([node], [producer], self.kind.by)
        else:
            graph = value.graph
            assert isinstance(graph, ir.Graph)
            readers = [usage.node for usage in value.uses() if usage.node is not node]
            first = next(iter(graph), None)
            if first is None:
                graph.append(node)
            else:
                graph.insert_before(first, node)
            provenance.inherit([node], readers[:1], self.kind.by)
        self.outcome.casts += 1
        self.outcome.modified = True
        return output

    @staticmethod
    def _swap_names(value: ir.Value, cast: ir.Value) -> None:
        mine, new = value.name, cast.name
        cast.name = None
        value.name = new
        cast.name = mine


def _hold(node: ir.Node, tensor: ir.Tensor[Any]) -> None:
    for name in ("value", "value_float", "value_floats"):
        node.attributes.pop(name, None)
    node.attributes["value"] = ir.AttrTensor("value", tensor)


def _set_attributes(node: ir.Node, kind: HalfType) -> None:
    """Retype what an attribute types: a cast's target, the fill of `ConstantOfShape`."""
    if node.op_type == "Cast" and node.outputs[0].dtype == kind.dtype:
        node.attributes["to"] = ir.AttrInt64("to", int(kind.dtype))
    elif node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        array = kind.cast(np.zeros(1, np.float32) if fill is None else fill.as_tensor().numpy())
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array, dtype=kind.dtype))


def _remove_idle_casts(graph: ir.Graph, half: ir.DataType) -> None:
    """Remove casts to the type there is already, and 16 bits → float32 → 16 bits."""
    for node in list(nested_nodes(graph)):
        if node.op_type != "Cast" or node.inputs[0] is None or node.graph is None:
            continue
        source, result = node.inputs[0], node.outputs[0]
        producer = source.producer()
        if source.dtype != result.dtype and producer is not None and producer.op_type == "Cast":
            origin = producer.inputs[0]
            if origin is not None and origin.dtype == result.dtype == half and source.dtype == _SINGLE:
                source = origin
        if source.dtype != result.dtype or source.dtype is None or _leaves_a_graph(result):
            continue
        result.replace_all_uses_with(source)
        node.graph.remove(node, safe=True)
        if producer is not None and producer.op_type == "Cast" and not _is_read(producer.outputs[0]):
            assert producer.graph is not None
            producer.graph.remove(producer, safe=True)


def _leaves_a_graph(value: ir.Value) -> bool:
    return value.is_graph_output()


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()
