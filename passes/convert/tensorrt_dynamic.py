"""Activations that are quantised at run time, for TensorRT: int8 weights stay, activations stay float.

    DynamicQuantizeLinear(x) → q, s, z;  Cast(MatMulInteger(q, w, z, zw)) · (s · sw)   →   MatMul(x, sw · (w - zw))

and so for `ConvInteger`; the right side holds the weight's int8 values before a DequantizeLinear, so that the file
stays small, and it is nearer to the float model than the left one. A `DynamicQuantizeLSTM` becomes an `LSTM`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.passes.convert.tensorrt_graph import Lowering, parameter, refusal, spread
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

PRODUCTS: Final = "integer products: int8 weights, float activations"
RECURRENT: Final = "quantised LSTMs: float"
ROWS: Final = "embeddings of int8 rows: rows scaled before they are read"


def product(editor: Lowering, node: ir.Node) -> None:
    """Lower a `MatMulInteger` or `ConvInteger` with the scaling behind it.

    Raises:
        PassError: its activation comes from no `DynamicQuantizeLinear`, its weight is computed, or something else
            than a scaling follows.
    """
    q, stored = node.inputs[0], parameter(node, 1, "weight")
    made = q.producer() if q is not None else None
    if made is None or made.op_type != "DynamicQuantizeLinear":
        raise refusal(node, "its activation comes from no DynamicQuantizeLinear")
    assert stored is not None
    cast = _only_reader(node.outputs[0])
    scaled = _only_reader(cast.outputs[0]) if cast is not None and cast.op_type == "Cast" else None
    factor = None if scaled is None or cast is None else _factor(scaled, cast.outputs[0], made.outputs[1])
    if scaled is None or factor is None:
        raise refusal(node, "no Cast and scaling follow it")
    axis = 0 if node.op_type == "ConvInteger" else stored.ndim - 1
    zero = parameter(node, 3, "zero point")
    weight = _weight(editor, node, stored, zero, factor, axis)
    operator = "Conv" if node.op_type == "ConvInteger" else "MatMul"
    result = editor.insert(
        node, operator, [made.inputs[0], weight], label=f"{scaled.outputs[0].name}_float",
        shape=scaled.outputs[0].shape, attributes=node.attributes if operator == "Conv" else None,
    )[0]  # fmt: skip
    editor.redirect(scaled, result)
    editor.count(PRODUCTS)


def lstm(editor: Lowering, node: ir.Node) -> None:
    """`DynamicQuantizeLSTM` → `LSTM` with the weights it stands for, turned back.

    Raises:
        PassError: a weight is computed.
    """
    inputs = [*node.inputs, *([None] * (12 - len(node.inputs)))]
    for index, at in ((1, 8), (2, 10)):
        stored, scale = parameter(node, index, "weight"), parameter(node, at, "scale")
        zero = parameter(node, at + 1, "zero point")
        assert stored is not None and scale is not None
        zeros = np.zeros(scale.shape, np.float32) if zero is None else zero.astype(np.float32)
        shape = (scale.shape[0], 1, -1) if scale.ndim == 2 else (-1, 1, 1)
        reals = (stored.astype(np.float32) - zeros.reshape(shape)) * scale.reshape(shape)
        turned = np.ascontiguousarray(reals.transpose(0, 2, 1))
        inputs[index] = editor.constant(turned, f"{node.inputs[index].name}_float")  # type: ignore[union-attr]
    last = max(index for index in range(8) if inputs[index] is not None)
    results = editor.insert(
        node, "LSTM", inputs[: last + 1], label=f"{node.outputs[0].name}_float", attributes=node.attributes,
        dtypes=(ir.DataType.FLOAT,) * len(node.outputs),
    )  # fmt: skip
    for old, new in zip(node.outputs, results, strict=True):
        new.shape = old.shape
    editor.replace(node, results)
    editor.count(RECURRENT)


def rows(editor: Lowering, node: ir.Node) -> None:
    """`Gather` of int8 rows, `Cast`, times a scale or that of each row → `Gather` behind DequantizeLinear."""
    stored = constant_array(node.inputs[0])
    if stored is None or stored.dtype.kind not in "iu" or stored.dtype.itemsize != 1:
        return
    cast = _only_reader(node.outputs[0])
    scaled = _only_reader(cast.outputs[0]) if cast is not None and cast.op_type == "Cast" else None
    if scaled is None or cast is None or scaled.op_type != "Mul" or node.attributes.get_int("axis", 0) != 0:
        return
    other = scaled.inputs[1 if scaled.inputs[0] is cast.outputs[0] else 0]
    scale = constant_array(other)
    gathered = other.producer() if other is not None else None
    if scale is None and gathered is not None and gathered.op_type == "Gather" and gathered.inputs[1] is node.inputs[1]:
        scale = constant_array(gathered.inputs[0])
    if scale is None or scale.size not in (1, stored.shape[0]):
        return
    table = _weight(editor, node, stored, None, scale.reshape(-1), 0)
    (found,) = editor.insert(
        node, "Gather", [table, node.inputs[1]], label=f"{scaled.outputs[0].name}_rows", shape=scaled.outputs[0].shape
    )
    editor.redirect(scaled, found)
    editor.count(ROWS)


def _weight(
    editor: Lowering, node: ir.Node, stored: NDArray[Any], zero: NDArray[Any] | None, factor: NDArray[Any], axis: int
) -> ir.Value:
    """Return a weight as reals: int8 behind DequantizeLinear where its scales lie along one axis, else float."""
    shift = np.int32(0) if zero is None else spread(zero.astype(np.int32), axis, stored.ndim)
    moved = stored.astype(np.int32) - shift
    scale = factor.reshape(-1).astype(np.float32)
    position = node.inputs[0] if node.op_type == "Gather" else node.inputs[1]
    label = position.name if position is not None else "weight"
    along = factor.size == 1 or (factor.size == stored.shape[axis])
    if not along:
        return editor.constant((moved * factor).astype(np.float32), f"{label}_float")
    if moved.min(initial=0) < -128 or moved.max(initial=0) > 127:
        reals = moved.astype(np.float32) * spread(scale, axis, stored.ndim)
        return editor.constant(reals.astype(np.float32), f"{label}_float")
    attributes = None if scale.size == 1 else {"axis": ir.AttrInt64("axis", axis)}
    held = [
        editor.constant(moved.astype(np.int8), f"{label}_int8"),
        editor.constant(scale if scale.size > 1 else scale.reshape(()), f"{label}_scales"),
    ]
    return editor.insert(
        node, "DequantizeLinear", held, label=f"{label}_real", shape=ir.Shape(stored.shape), attributes=attributes
    )[0]


def _factor(scaled: ir.Node, integer: ir.Value, x_scale: ir.Value) -> NDArray[Any] | None:
    """Return sw of `integer · (x_scale · sw)`, in either order of both products; ones for `integer · x_scale`."""
    if scaled.op_type != "Mul":
        return None
    other = scaled.inputs[1 if scaled.inputs[0] is integer else 0]
    if other is x_scale:
        return np.ones(1, np.float32)
    both = other.producer() if other is not None else None
    if both is None or both.op_type != "Mul" or x_scale not in both.inputs:
        return None
    return constant_array(both.inputs[1 if both.inputs[0] is x_scale else 0])


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None
