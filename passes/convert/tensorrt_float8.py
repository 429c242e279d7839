"""Int8 grids as 8-bit floats: E4M3, 4 bits of exponent and 3 of mantissa, which GPUs multiply from SM89 on.

A grid of floats has small steps where values are small, so that an outlier costs the other values little. An
activation's scale takes the end of its int8 grid to 448, the largest E4M3; a weight's the largest magnitude of each
channel that has a scale of its own. Weights have been rounded to int8 before, whose steps are finer than E4M3's from an
eighth of the largest magnitude on.
"""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from mopt.passes.convert.tensorrt_constants import restored
from mopt.passes.convert.tensorrt_graph import Lowering, parameter
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

OPSET: Final = 19
"""The first opset whose quantisers take 8-bit floats."""
E4M3: Final = ml_dtypes.float8_e4m3fn
LARGEST: Final = 448.0
"""The largest finite E4M3."""
_BYTES: Final = 127
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FLOATS: Final = "grids of bytes made 8-bit floats (E4M3)"


def grid(editor: Lowering, node: ir.Node) -> None:
    """Move one `QuantizeLinear` and what reads it, or one weight behind a `DequantizeLinear`, onto E4M3.

    What is no symmetric int8 grid, or a weight of no convolution or product, stays as it is.
    """
    if node.op_type == "QuantizeLinear":
        _activation(editor, node)
    elif node.op_type == "DequantizeLinear":
        _weight(editor, node)


def scaled(array: NDArray[Any], axis: int | None = None) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Round to E4M3 with the scale that takes the largest magnitude to 448.

    Args:
        array: float32 of any shape.
        axis: one scale for each index along it; None for one in all.

    Returns:
        The 8-bit floats, and the scale: a scalar or a vector.
    """
    others = None if axis is None else tuple(at for at in range(array.ndim) if at != axis)
    peak = np.abs(array).max(axis=others, initial=0.0)
    scale = np.where(peak > 0, peak / LARGEST, 1.0).astype(np.float32)
    spread = scale if axis is None else scale.reshape([-1 if at == axis else 1 for at in range(array.ndim)])
    return np.clip(array / spread, -LARGEST, LARGEST).astype(E4M3), scale


def _activation(editor: Lowering, node: ir.Node) -> None:
    scale, kind = parameter(node, 1, "scale"), node.outputs[0].dtype
    readers = [usage.node for usage in node.outputs[0].uses()]
    if scale is None or scale.size != 1 or kind not in (None, ir.DataType.INT8):
        return
    if any(reader.op_type != "DequantizeLinear" for reader in readers):
        return
    ends = [
        editor.constant(np.asarray(scale * np.float32(_BYTES / LARGEST), scale.dtype), "scale"),
        editor.constant(np.zeros(scale.shape, E4M3), "zero_e4m3"),
    ]
    for one in (node, *readers):
        for index, value in enumerate(ends, start=1):
            if index < len(one.inputs):
                editor.put(one, index, value)
            else:
                one.resize_inputs(index + 1)
                editor.put(one, index, value)
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT8E4M3FN)
    editor.count(FLOATS)


def _weight(editor: Lowering, node: ir.Node) -> None:
    stored = None if node.inputs[0] is None else constant_array(node.inputs[0])
    scale = parameter(node, 1, "scale")
    if stored is None or scale is None or stored.dtype != np.int8 or node.attributes.get_int("block_size", 0) > 0:
        return
    if not any(usage.idx == 1 and usage.node.op_type in _WEIGHTED for usage in node.outputs[0].uses()):
        return
    axis = node.attributes.get_int("axis", 1)
    real = restored(stored, scale, None, axis, 0).astype(np.float32)
    floats, steps = scaled(real, axis % stored.ndim if scale.size > 1 else None)
    label = node.outputs[0].name or "weight"
    editor.put(node, 0, editor.constant(floats, f"{label}_e4m3"))
    editor.put(node, 1, editor.constant(steps.astype(scale.dtype), f"{label}_e4m3_scale"))
    node.resize_inputs(3)
    editor.put(node, 2, editor.constant(np.zeros(steps.shape, E4M3), f"zeros_{steps.size}_e4m3"))
    editor.count(FLOATS)
