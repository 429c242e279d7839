"""Scales of weights that float16 would lose: a channel of almost nothing gets the least scale that it holds.

A channel whose scale is below 4e-6 holds weights below 5e-4. Left as it is, its scale would be rounded coarsely, or
to zero, which TensorRT refuses; so its integers are rounded anew to the least scale, by half of which they move.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs
from mopt.passes.convert.half_choice import constant_of
from numpy.typing import NDArray

LEAST: Final = np.float32(2.0**-18)
"""64 steps of the smallest subnormal float16: a scale from here on is kept within 1 %."""


def lift(module: Module) -> None:
    """Raise the scales of int8 weights that are below `LEAST`, in place."""
    names = {value.name for graph in nested_graphs(module.graph) for value in graph_values(graph) if value.name}
    for node in list(module.nodes()):
        if node.op_type != "DequantizeLinear" or node.attributes.get_int("block_size", 0) > 0:
            continue
        stored, scale = constant_of(node.inputs[0]), constant_of(node.inputs[1])
        zero = constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
        if stored is None or scale is None or stored.dtype != np.int8 or (zero is not None and zero.any()):
            continue
        if scale.dtype != np.float32 or (scale >= LEAST).all():
            continue
        raised = np.maximum(scale, LEAST)
        shape = [1] * stored.ndim
        if scale.size > 1:
            shape[node.attributes.get_int("axis", 1)] = -1
        rounded = np.rint(stored * (scale / raised).reshape(shape)).astype(np.int8)
        for index, array in ((0, rounded), (1, raised)):
            held = node.inputs[index]
            label = held.name if held is not None and held.name else "scale"
            node.replace_input_with(index, _initializer(module, array, fresh(f"{label}_lifted", names)))


def _initializer(module: Module, array: NDArray[Any], name: str) -> ir.Value:
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    module.graph.initializers[name] = value
    return value
