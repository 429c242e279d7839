"""Putting nodes, constants and shared activation quantisers into a graph while it is being quantised."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs, nested_nodes
from mopt.passes.quantize.symmetric import Quantized, quantize
from numpy.typing import NDArray

BY = "quantize.dynamic"
FLOAT = ir.DataType.FLOAT


class Editor:
    """Edits one module; remembers what it made, so that a shared activation or weight is quantised once.

    Args:
        signed: weights are stored as int8, else as uint8; or the operators whose weights are int8.
        by: the step that nodes put in are recorded under.
    """

    def __init__(self, module: Module, *, signed: bool | Collection[str], by: str = BY) -> None:
        self.module, self._by = module, by
        self._signed = signed
        graphs = list(nested_graphs(module.graph))
        self._names = {value.name for graph in graphs for value in graph_values(graph) if value.name}
        self._nodes = {node.name for node in nested_nodes(module.graph) if node.name}
        self._activations: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        self._weights: dict[tuple[ir.Value, str, bool], Quantized] = {}
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], ir.Value] = {}
        self.elements = 0

    def constant(self, array: NDArray[Any], label: str) -> ir.Value:
        """Return an initializer of the main graph; equal small ones are shared."""
        array = np.asarray(array)
        key = (str(array.dtype), array.tobytes() if array.size <= 16 else label.encode(), array.shape)
        if key not in self._constants:
            name = fresh(label, self._names)
            tensor = ir.Tensor(np.ascontiguousarray(array) if array.ndim else array, name=name)
            value = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self.module.graph.initializers[name] = value
            self._constants[key] = value
        return self._constants[key]

    def weight(
        self, value: ir.Value, array: NDArray[Any], axes: tuple[int, ...], layout: str, operator: str
    ) -> Quantized:
        """Quantise a weight, laid out as `layout` says, once for all nodes that read it so.

        Args:
            operator: what reads it, on which its storage depends. Rows of a `Gather` are always signed, so that no zero
                point has to be subtracted.
        """
        signed = operator == "Gather" or (self._signed if isinstance(self._signed, bool) else operator in self._signed)
        key = (value, layout, signed)
        if key not in self._weights:
            self._weights[key] = quantize(array, axes, signed=signed)
            self.elements += array.size
        return self._weights[key]

    def insert(
        self,
        before: ir.Node,
        operator: str,
        inputs: Sequence[ir.Value | None],
        *,
        label: str,
        dtypes: Sequence[ir.DataType] = (FLOAT,),
        shape: ir.Shape | None = None,
        attributes: Mapping[str, ir.Attr] | None = None,
        domain: str = "",
    ) -> tuple[ir.Value, ...]:
        """Insert a node before another, with its provenance, and return its outputs."""
        node = self._node(operator, inputs, label, dtypes, shape, attributes, domain)
        assert before.graph is not None
        before.graph.insert_before(before, node)
        provenance.inherit([node], [before], self._by)
        return tuple(node.outputs)

    def activation(self, value: ir.Value, reader: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value]:
        """Return an activation as (uint8, scale, zero point), quantised right where it is made."""
        if value not in self._activations:
            dtypes = (ir.DataType.UINT8, FLOAT, ir.DataType.UINT8)
            node = self._node("DynamicQuantizeLinear", [value], f"{value.name}_quantized", dtypes, None, None, "")
            quantized, scale, zero_point = node.outputs
            quantized.shape, scale.shape, zero_point.shape = value.shape, ir.Shape([]), ir.Shape([])
            producer = value.producer()
            if producer is not None and producer.graph is not None:
                producer.graph.insert_after(producer, node)
            else:
                graph = value.graph
                assert isinstance(graph, ir.Graph)
                first = next(iter(graph))
                graph.insert_before(first, node)
            provenance.inherit([node], [reader], self._by)
            self._activations[value] = (quantized, scale, zero_point)
        return self._activations[value]

    def replace(self, node: ir.Node, results: Sequence[ir.Value]) -> None:
        """Let `results` stand for a node's outputs, names included, and remove the node."""
        for old, new in zip(node.outputs, results, strict=False):
            name = old.name
            new.shape = new.shape or old.shape
            old.replace_all_uses_with(new, replace_graph_outputs=True)
            old.name = None
            new.name = name
        assert node.graph is not None
        read = [value for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
        for value in read:
            drop_if_unread(value)

    def _node(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        label: str,
        dtypes: Sequence[ir.DataType],
        shape: ir.Shape | None,
        attributes: Mapping[str, ir.Attr] | None,
        domain: str,
    ) -> ir.Node:
        node = ir.Node(
            domain,
            operator,
            list(inputs),
            list((attributes or {}).values()),
            num_outputs=len(dtypes),
            name=fresh(f"{label}/{operator}", self._nodes),
        )
        for index, (output, dtype) in enumerate(zip(node.outputs, dtypes, strict=True)):
            output.name = fresh(label if index == 0 else f"{label}_{index}", self._names)
            output.type, output.shape = ir.TensorType(dtype), shape if index == 0 else None
        return node


def drop_if_unread(value: ir.Value) -> None:
    """Remove a constant, or the chain of nodes that only rearranges one, once nothing reads it."""
    if value.uses() or value.is_graph_output() or value.is_graph_input():
        return
    producer = value.producer()
    if producer is None:
        if value.is_initializer() and value.graph is not None and value.name:
            value.graph.initializers.pop(value.name)
        return
    if producer.op_type in ("Constant", "Identity", "Transpose") and producer.graph is not None:
        read = [item for item in producer.inputs if item is not None]
        producer.graph.remove(producer, safe=True)
        for item in read:
            drop_if_unread(item)
