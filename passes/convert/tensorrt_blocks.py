"""onnxruntime's block-wise weights for TensorRT: int4 `DequantizeLinear` in blocks where it fits, else float.

TensorRT reads symmetric int4 weights in blocks along the summed axis of a product and multiplies in the activation's
precision, as `MatMulNBits` does. Blocks with zero points of their own, 8 bits, and embeddings are written out.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.passes.convert.tensorrt_graph import Lowering, parameter, refusal
from mopt.passes.quantize import blocks
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

OPSET: Final = 21
"""The first with int4 and blocks."""
IR_VERSION: Final = 10
INT4: Final = "4-bit products: int4 weights in blocks"
DENSE: Final = "block-wise weights written out in float"


def fits(node: ir.Node) -> bool:
    """Say whether a `MatMulNBits` can keep its 4 bits: symmetric, in whole blocks."""
    inner, bits, block = (node.attributes[name].as_int() for name in ("K", "bits", "block_size"))
    if bits != 4 or inner % block:
        return False
    zero = constant_array(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    absent = len(node.inputs) < 4 or node.inputs[3] is None
    return absent or (zero is not None and _is_middle(zero))


def _is_middle(zero: NDArray[Any]) -> bool:
    return bool((zero == (0x88 if zero.dtype == np.uint8 else 8)).all())


def product(editor: Lowering, node: ir.Node) -> None:
    """`MatMulNBits` (x [..., K], packed by columns) → `MatMul`.

    Raises:
        PassError: its weight is reordered by groups (`g_idx`), or computed.
    """
    inner, outer, bits, block = (node.attributes[name].as_int() for name in ("K", "N", "bits", "block_size"))
    packed, scale, zero = (
        parameter(node, index, what) for index, what in ((1, "weight"), (2, "scale"), (3, "zero point"))
    )
    assert packed is not None and scale is not None
    if parameter(node, 4, "order") is not None:
        raise refusal(node, "its weight is in an order of groups", "quantise without `g_idx`")
    if bits not in (4, 8):
        raise refusal(node, f"{bits} bits")
    values = _unpacked(packed.reshape(outer, -1), bits)[:, :inner]
    count = -(-inner // block)
    scale, middle = scale.reshape(outer, count).astype(np.float32), 1 << (bits - 1)
    if zero is None:
        zeros = np.full(scale.shape, middle, np.float32)
    elif zero.dtype == np.uint8:
        zeros = _unpacked(zero.reshape(outer, -1), bits)[:, :count].astype(np.float32)
    else:
        zeros = zero.reshape(scale.shape).astype(np.float32)
    label, source, shape = node.inputs[1].name, node.inputs[0], node.outputs[0].shape  # type: ignore[union-attr]
    if fits(node):
        turned = np.ascontiguousarray(values.T)
        held = [
            editor.stored(blocks.tensor(turned, bits, signed=True), f"{label}_int4"),
            editor.constant(np.ascontiguousarray(scale.T), f"{label}_by_block"),
        ]
        attributes = {"axis": ir.AttrInt64("axis", 0), "block_size": ir.AttrInt64("block_size", block)}
        (weight,) = editor.insert(
            node, "DequantizeLinear", held, label=f"{label}_real", shape=ir.Shape(turned.shape), attributes=attributes
        )
        editor.count(INT4)
    else:
        spread = (np.repeat(array, block, axis=1)[:, :inner] for array in (scale, zeros))
        weight = editor.constant(_dense(values, *spread).T, f"{label}_float")
        editor.count(DENSE)
    (result,) = editor.insert(node, "MatMul", [source, weight], label=f"{node.outputs[0].name}_product", shape=shape)
    if len(node.inputs) > 5 and node.inputs[5] is not None:
        (result,) = editor.insert(node, "Add", [result, node.inputs[5]], label=f"{result.name}_biased", shape=shape)
    editor.redirect(node, result)


def embedding(editor: Lowering, node: ir.Node) -> None:
    """`GatherBlockQuantized` of rows → `Gather` of float rows.

    Raises:
        PassError: it gathers along, or is quantised along, another axis; or its table is computed.
    """
    bits, block = node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 128)
    table, scale = parameter(node, 0, "table"), parameter(node, 2, "scale")
    zero = parameter(node, 3, "zero point")
    assert table is not None and scale is not None
    along = node.attributes.get_int("quantize_axis", 1)
    if node.attributes.get_int("gather_axis", 0) != 0 or along % 2 != 1 or scale.ndim != 2:
        raise refusal(node, "it does not read rows of a matrix")
    packed = table.dtype == np.uint8 and bits == 4 and table.shape[1] * 2 >= scale.shape[1] * block > table.shape[1]
    values = _unpacked(table, bits) if packed else table
    size = values.shape[1]
    if zero is None:
        zeros = np.zeros(scale.shape, np.float32) if table.dtype.kind == "i" else np.full(scale.shape, 1 << (bits - 1))
    else:
        zeros = _unpacked(zero, bits)[:, : scale.shape[1]] if zero.shape != scale.shape else zero
    spread = (np.repeat(array.astype(np.float32), block, axis=1)[:, :size] for array in (scale, zeros))
    dense = editor.constant(_dense(values, *spread), f"{node.inputs[0].name}_float")  # type: ignore[union-attr]
    (rows,) = editor.insert(
        node, "Gather", [dense, node.inputs[1]], label=f"{node.outputs[0].name}_rows", shape=node.outputs[0].shape
    )
    editor.count(DENSE)
    editor.redirect(node, rows)


def _dense(values: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray((values.astype(np.float32) - zero) * scale)


def _unpacked(packed: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return rows of elements, one a byte; of two in a byte the lower bits come first."""
    if bits == 8:
        return packed
    pairs = np.stack((packed & 15, packed >> 4), axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)
