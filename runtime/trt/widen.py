"""A module with its 16-bit floats in float32: it takes the same sizes, and onnxruntime runs it on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mopt.ir.module import Module


def widened(module: Module, *, float16: bool = False) -> Module:
    """Return the module in float32 (itself where it has no bfloat16). Weights keep their rounded values.

    Args:
        module: what to widen.
        float16: widen float16, too, which onnxruntime has kernels for, though slow ones on a CPU.
    """
    import numpy as np
    import onnx_ir as ir
    from mopt.ir.walk import graph_values, nested_graphs

    halves = {ir.DataType.BFLOAT16, *([ir.DataType.FLOAT16] if float16 else [])}
    single = ir.DataType.FLOAT
    if not any(value.dtype in halves for graph in nested_graphs(module.graph) for value in graph_values(graph)):
        return module
    wide = module.clone()
    for graph in nested_graphs(wide.graph):
        for value in graph_values(graph):
            if value.dtype in halves:
                value.type = ir.TensorType(single)
                if value.const_value is not None:
                    array = value.const_value.numpy().astype(np.float32)
                    value.const_value = ir.Tensor(array, name=value.name)
        for node in graph:
            if node.op_type == "Cast" and node.attributes["to"].as_int() in halves:
                node.attributes["to"] = ir.AttrInt64("to", int(single))
            held = node.attributes.get("value") if node.op_type in ("Constant", "ConstantOfShape") else None
            if held is not None and held.as_tensor().dtype in halves:
                array = held.as_tensor().numpy().astype(np.float32)
                node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(array))
    wide.touch()
    return wide
