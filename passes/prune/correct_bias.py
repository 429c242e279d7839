"""Biases in a graph: where a layer keeps them, and putting them in where it has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_nodes
from mopt.rewrite.constants import stored_tensor
from numpy.typing import NDArray

Array = NDArray[Any]


def add_bias(module: Module, node: ir.Node, bias: Array) -> None:
    """Add to what a layer adds to each output channel: its biases, an Add behind a MatMul, or a new one."""
    graph = module.graph
    place = 2 if node.op_type in ("Conv", "Gemm") else None
    reader, index = node, place
    if place is None:
        uses = list(node.outputs[0].uses())
        reader, index = (uses[0].node, 1 - uses[0].idx) if len(uses) == 1 else (node, None)
        if index is not None and (
            reader.op_type != "Add" or reader.domain != "" or not _vector(reader.inputs[index], bias)
        ):
            index = None
        if index is None:
            _insert_add(module, node, bias)
            return
    assert index is not None
    old = reader.inputs[index] if len(reader.inputs) > index else None
    tensor = stored_tensor(old)
    if old is not None and tensor is None:
        return  # computed at run time
    array = bias if tensor is None else tensor.numpy() + bias.reshape(-1)
    kernel = stored_tensor(node.inputs[1])
    assert kernel is not None
    array = np.asarray(array, kernel.numpy().dtype)
    value = _initializer(graph, old.name if old is not None and old.name else f"{node.name}_bias", array)
    if len(reader.inputs) <= index:
        reader.resize_inputs(index + 1)
    reader.replace_input_with(index, value)
    if old is not None and not old.uses():
        producer = old.producer()
        if producer is not None and not old.is_graph_output():
            graph.remove(producer, safe=True)
        elif old.is_initializer() and not old.is_graph_input() and not old.is_graph_output():
            graph.initializers.pop(old.name or "", None)
    module.touch()


def _vector(value: ir.Value | None, bias: Array) -> bool:
    tensor = stored_tensor(value)
    if tensor is None:
        return False
    shape = tuple(tensor.shape.numpy())
    return bool(shape) and shape[-1] == bias.size and int(np.prod(shape)) == bias.size


def _insert_add(module: Module, node: ir.Node, bias: Array) -> None:
    """Put an Add behind a product; what it gives takes the product's name, which readers and the original know."""
    kernel = stored_tensor(node.inputs[1])
    assert kernel is not None
    graph, result = module.graph, node.outputs[0]
    taken = {value.name or "" for value in graph_values(graph)}
    nodes = {other.name or "" for other in nested_nodes(graph)}
    value = _initializer(graph, f"{node.name}_bias", np.asarray(bias, kernel.numpy().dtype))
    add = ir.node("Add", [result, value], name=fresh(f"{node.name}/bias", nodes))
    total, name = add.outputs[0], result.name
    total.type, total.shape = result.type, result.shape
    result.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, result)
    result.name = fresh(f"{name}/product", taken)
    total.name = name
    graph.insert_after(node, add)
    provenance.inherit([add], [node], "prune.channels")
    module.touch()


def _initializer(graph: ir.Graph, base: str, array: Array) -> ir.Value:
    name = fresh(base, {value.name or "" for value in graph_values(graph)})
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(array, name=name),
    )
    graph.initializers.add(value)
    return value
