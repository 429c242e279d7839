"""Constants behind `DequantizeLinear` in forms that TensorRT takes: int32 biases, asymmetric and unusual weights."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.passes.convert.tensorrt_graph import Lowering, parameter, spread
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

BIASES: Final = "int32 constants made float"
SHIFTED: Final = "weights moved onto symmetric int8, value for value"
DENSE: Final = "weights written out in float: their grids are not symmetric"


def lower(editor: Lowering, node: ir.Node) -> None:
    """Lower one `DequantizeLinear` of a constant, where TensorRT would refuse it."""
    stored = constant_array(node.inputs[0])
    if stored is None:
        return
    scale, zero = parameter(node, 1, "scale"), parameter(node, 2, "zero point")
    assert scale is not None and node.inputs[0] is not None
    kind = node.inputs[0].dtype or ir.DataType.from_numpy(stored.dtype)
    if kind in (ir.DataType.INT8, ir.DataType.INT4, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT4E2M1) and (
        zero is None or not zero.astype(np.float32).any()
    ):
        return
    label = node.outputs[0].name or "weight"
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    if kind == ir.DataType.INT32:
        editor.count(BIASES)
    elif not block:
        shift = np.int32(0) if zero is None else spread(zero.astype(np.int32), axis, stored.ndim)
        moved = stored.astype(np.int32) - shift
        if (
            kind in (ir.DataType.UINT8, ir.DataType.INT8)
            and moved.min(initial=0) >= -128
            and moved.max(initial=0) < 128
        ):
            editor.put(node, 0, editor.constant(moved.astype(np.int8), f"{label}_int8"))
            if zero is not None:
                editor.put(node, 2, editor.constant(np.zeros(zero.shape, np.int8), f"zeros_{zero.size}"))
            editor.count(SHIFTED)
            return
        editor.count(DENSE)
    else:
        editor.count(DENSE)
    editor.redirect(node, editor.constant(restored(stored, scale, zero, axis, block), f"{label}_float"))


def restored(
    stored: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None, axis: int, block: int
) -> NDArray[Any]:
    """Return the reals a quantised constant stands for, in the scale's type.

    Args:
        stored: integers of any shape.
        scale: a scalar, a vector along `axis`, or with `block` one for each block of that axis.
        zero: zero points of `scale`'s shape, or None.
    """
    zero = np.zeros(scale.shape, np.float32) if zero is None else zero.astype(np.float32)
    if block:
        size = stored.shape[axis]
        scale = np.repeat(scale, block, axis=axis).take(range(size), axis=axis)
        zero = np.repeat(zero, block, axis=axis).take(range(size), axis=axis)
    else:
        scale, zero = spread(scale, axis, stored.ndim), spread(zero, axis, stored.ndim)
    reals = (stored.astype(np.float32) - zero) * scale.astype(np.float32)
    return np.asarray(reals, scale.dtype)
