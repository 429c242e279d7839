"""Putting changed weights and biases into a float graph: each node gets a constant of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs, nested_nodes
from mopt.passes.quantize.dynamic_graph import drop_if_unread
from numpy.typing import NDArray


class Constants:
    """Makes initializers of one module's main graph."""

    def __init__(self, module: Module) -> None:
        self._graph = module.graph
        graphs = list(nested_graphs(module.graph))
        self._names = {value.name for graph in graphs for value in graph_values(graph) if value.name}
        self._nodes = {node.name for node in nested_nodes(module.graph) if node.name}

    def add(self, array: NDArray[Any], label: str) -> ir.Value:
        """Return a new f32 initializer."""
        name = fresh(label, self._names)
        tensor = ir.Tensor(np.ascontiguousarray(array, np.float32), name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.initializers[name] = value
        return value

    def replace(self, node: ir.Node, index: int, array: NDArray[Any]) -> None:
        """Give a node another constant as its input `index`, under the old one's name where nothing else reads that."""
        old = node.inputs[index]
        assert old is not None
        name = old.name or f"{node.name}_{index}"
        alone = len(old.uses()) == 1 and old.is_initializer()
        new = self.add(array, f"{name}_scaled")
        node.replace_input_with(index, new)
        drop_if_unread(old)
        if alone and new.name is not None and name not in self._graph.initializers:
            self._graph.initializers.pop(new.name)
            new.name = name
            self._graph.initializers[name] = new

    def node(self, operator: str, inputs: list[ir.Value], label: str) -> ir.Node:
        """Return a new node that is in no graph yet, its result named `label` or like it."""
        node = ir.Node("", operator, inputs, name=fresh(f"{label}/{operator}", self._nodes))
        node.outputs[0].name = fresh(label, self._names)
        return node
