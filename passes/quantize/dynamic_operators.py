"""How each operator is rewritten for dynamic quantisation. Each function returns None, or why it left a node alone.

With x ≈ sx (qx - zx), w ≈ sw (qw - zw): x · w ≈ sx sw Σ (qx - zx)(qw - zw). The sum is the integer operator's; since
sw does not vary along the summed axes, one multiplication by `sx sw` and the bias in float finish the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.passes.contract import PassError
from mopt.passes.quantize.dynamic_graph import FLOAT, Editor
from numpy.typing import NDArray

INT32 = ir.DataType.INT32


@dataclass(frozen=True)
class Limits:
    """What the options say of every weight."""

    per_channel: bool
    min_elements: int


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """Return what a value holds where it is a constant, also behind `Identity` and `Transpose`; else None."""
    if value is None or value.is_graph_input():
        return None
    producer = value.producer()
    if producer is not None and producer.op_type in ("Identity", "Transpose") and producer.domain == "":
        inner = constant(producer.inputs[0])
        if inner is None or producer.op_type == "Identity":
            return inner
        order = producer.attributes.get("perm")
        return inner.transpose(None if order is None else list(order.as_ints()))
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _weight(node: ir.Node, index: int, limits: Limits) -> NDArray[Any] | str:
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant(value)
    if array is None:
        return "its weight is computed by the graph"
    if array.dtype != np.float32:
        return f"its weight is {array.dtype.name}; quantise before converting to another precision"
    if array.size < limits.min_elements:
        return f"its weight has fewer than {limits.min_elements} elements"
    if not np.isfinite(array).all():
        name = value.name if value is not None else ""
        raise PassError(f"weight `{name}` of node `{node.name}` holds NaN or infinite values", node=node.name)
    return array


def _finish(
    editor: Editor, node: ir.Node, product: ir.Value, x_scale: ir.Value, scale: NDArray[Any], bias: ir.Value | None
) -> None:
    """Scale an integer product back to float and add the bias."""
    name, shape = node.outputs[0].name or node.name or "", node.outputs[0].shape
    factor = editor.constant(scale, f"{name}_weight_scale")
    to_float = {"to": ir.AttrInt64("to", int(FLOAT))}
    (real,) = editor.insert(node, "Cast", [product], label=f"{name}_cast", attributes=to_float, shape=shape)
    both = ir.Shape(scale.shape)
    (scales,) = editor.insert(node, "Mul", [x_scale, factor], label=f"{name}_scale", shape=both)
    (result,) = editor.insert(node, "Mul", [real, scales], label=f"{name}_scaled", shape=shape)
    if bias is not None:
        (result,) = editor.insert(node, "Add", [result, bias], label=f"{name}_biased", shape=shape)
    editor.replace(node, [result])


def matmul(editor: Editor, node: ir.Node, limits: Limits) -> str | None:
    """`MatMul` with a constant right operand, [..., K, N]; a scale for each column."""
    array = _weight(node, 1, limits)
    if isinstance(array, str):
        return array
    if array.ndim < 2:
        return "its weight is a vector"
    return _product(editor, node, array, limits, bias=None, layout="matmul")


def gemm(editor: Editor, node: ir.Node, limits: Limits) -> str | None:
    """`Gemm` with a constant B: alpha goes into the scale, beta into the bias."""
    array = _weight(node, 1, limits)
    if isinstance(array, str):
        return array
    if _int(node, "transA", 0):
        return "its left operand is transposed"
    alpha, beta = _float(node, "alpha", 1.0), _float(node, "beta", 1.0)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and beta != 1.0:
        content = constant(bias)
        if content is None:
            return "its bias is computed by the graph and scaled"
        bias = editor.constant((content * np.float32(beta)).astype(np.float32), f"{bias.name}_scaled")
    transposed = bool(_int(node, "transB", 0))
    layout = "transposed" if transposed else "matmul"
    return _product(editor, node, array.T if transposed else array, limits, bias=bias, layout=layout, alpha=alpha)


def _product(
    editor: Editor,
    node: ir.Node,
    array: NDArray[Any],
    limits: Limits,
    *,
    bias: ir.Value | None,
    layout: str,
    alpha: float = 1.0,
) -> str | None:
    x, source = node.inputs[0], node.inputs[1]
    assert x is not None and source is not None
    if x.dtype not in (None, FLOAT):
        return "its activation is not float32"
    axes = (array.ndim - 2,) if limits.per_channel else tuple(range(array.ndim))
    found = editor.weight(source, array, axes, layout, node.op_type)
    quantized, x_scale, x_zero = editor.activation(x, node)
    weight = editor.constant(found.values, f"{source.name}_quantized" + ("" if layout == "matmul" else "_transposed"))
    zero = editor.constant(found.zero_point, "weight_zero_point")
    label = f"{node.outputs[0].name}_integer"
    shape = node.outputs[0].shape
    inputs = [quantized, weight, x_zero, zero]
    (product,) = editor.insert(node, "MatMulInteger", inputs, label=label, dtypes=(INT32,), shape=shape)
    scale = found.scale.reshape(-1) if array.ndim == 2 else found.scale
    scale = scale.reshape(()) if scale.size == 1 else scale
    _finish(editor, node, product, x_scale, scale * np.float32(alpha), bias)
    return None


def conv(editor: Editor, node: ir.Node, limits: Limits) -> str | None:
    """`Conv` with a constant kernel [M, C, ...] and one group; a scale for each output channel."""
    array = _weight(node, 1, limits)
    if isinstance(array, str):
        return array
    if _int(node, "group", 1) != 1:
        return "it has groups"
    x, source = node.inputs[0], node.inputs[1]
    assert x is not None and source is not None
    if x.dtype not in (None, FLOAT):
        return "its activation is not float32"
    spatial = array.ndim - 2
    axes = tuple(range(1 if limits.per_channel else 0, array.ndim))
    found = editor.weight(source, array, axes, "conv", node.op_type)
    quantized, x_scale, x_zero = editor.activation(x, node)
    weight = editor.constant(found.values, f"{source.name}_quantized")
    zero = editor.constant(found.zero_point, "weight_zero_point")
    label, shape = f"{node.outputs[0].name}_integer", node.outputs[0].shape
    (product,) = editor.insert(
        node,
        "ConvInteger",
        [quantized, weight, x_zero, zero],
        label=label,
        dtypes=(INT32,),
        shape=shape,
        attributes=node.attributes,
    )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        content = constant(bias)
        if content is None:
            target = editor.constant(np.array([1, -1, *[1] * spatial], np.int64), "bias_shape")
            (bias,) = editor.insert(node, "Reshape", [bias, target], label=f"{bias.name}_spread")
        else:
            bias = editor.constant(content.reshape(-1, *[1] * spatial), f"{bias.name}_spread")
    scale = found.scale.reshape(-1, *[1] * spatial) if limits.per_channel else found.scale.reshape(())
    _finish(editor, node, product, x_scale, scale, bias)
    return None


def lstm(editor: Editor, node: ir.Node, limits: Limits) -> str | None:
    """`LSTM` with constant W [D, 4H, I] and R [D, 4H, H]: onnxruntime's operator takes them transposed."""
    arrays = [_weight(node, index, limits) for index in (1, 2)]
    for array in arrays:
        if isinstance(array, str):
            return array
    if _int(node, "layout", 0):
        return "its batch axis comes first"
    if node.inputs[0] is None or node.inputs[0].dtype not in (None, FLOAT):
        return "its activation is not float32"
    inputs = [*node.inputs, *([None] * (8 - len(node.inputs)))]
    for index, array in zip((1, 2), arrays, strict=True):
        assert not isinstance(array, str)
        source = node.inputs[index]
        assert source is not None
        turned = array.transpose(0, 2, 1)
        found = editor.weight(source, turned, (1,) if limits.per_channel else (1, 2), "recurrent", "LSTM")
        inputs[index] = editor.constant(found.values, f"{source.name}_quantized")
        scale = found.scale[:, 0, :] if limits.per_channel else found.scale[:, 0, 0]
        inputs.append(editor.constant(np.ascontiguousarray(scale), f"{source.name}_scale"))
        zeros = np.full(scale.shape, found.zero_point, found.values.dtype)
        inputs.append(editor.constant(zeros, f"{source.name}_zero_point"))
    label = f"{node.outputs[0].name}_quantized"
    results = editor.insert(
        node,
        "DynamicQuantizeLSTM",
        inputs,
        label=label,
        dtypes=(FLOAT,) * len(node.outputs),
        attributes={name: value for name, value in node.attributes.items() if name != "layout"},
        domain="com.microsoft",
    )
    editor.module.model.opset_imports.setdefault("com.microsoft", 1)
    editor.replace(node, results)
    return None


def gather(editor: Editor, node: ir.Node, limits: Limits) -> str | None:
    """`Gather` of rows from an embedding [V, E]: 8-bit rows, each times its own scale."""
    array = _weight(node, 0, limits)
    if isinstance(array, str):
        return array
    if array.ndim != 2 or _int(node, "axis", 0) != 0:
        return "it does not read the rows of a matrix"
    source, indices = node.inputs
    assert source is not None and indices is not None
    found = editor.weight(source, array, (1,) if limits.per_channel else (0, 1), "rows", "Gather")
    table = editor.constant(found.values, f"{source.name}_quantized_rows")
    name, shape = node.outputs[0].name or "", node.outputs[0].shape
    int8 = (ir.DataType.INT8,)
    (rows,) = editor.insert(node, "Gather", [table, indices], label=f"{name}_rows", dtypes=int8, shape=shape)
    to_float = {"to": ir.AttrInt64("to", int(FLOAT))}
    (real,) = editor.insert(node, "Cast", [rows], label=f"{name}_cast", attributes=to_float, shape=shape)
    scale = editor.constant(found.scale if limits.per_channel else found.scale.reshape(()), f"{source.name}_scale")
    if limits.per_channel:
        (scale,) = editor.insert(node, "Gather", [scale, indices], label=f"{name}_scale")
    (result,) = editor.insert(node, "Mul", [real, scale], label=f"{name}_scaled", shape=shape)
    editor.replace(node, [result])
    return None


REWRITES: dict[str, Callable[[Editor, ir.Node, Limits], str | None]] = {
    "MatMul": matmul,
    "Gemm": gemm,
    "Conv": conv,
    "LSTM": lstm,
    "Gather": gather,
}


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _float(node: ir.Node, name: str, default: float) -> float:
    return node.attributes[name].as_float() if name in node.attributes else default
