"""How many parameters a weight holds, and how many of them are not zero.

A quantised weight counts like the float weight it stands for: an element is zero where it equals its zero point, and
a block of packed 4-bit elements counts each of them. Scales and zero points count nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir.weights import Weight, constant_tensor, is_constant

_ZERO_POINTS: dict[str, dict[int, tuple[int, int]]] = {
    # operator: {weight's input index: (zero point's input index, the axis that a list of zero points runs along)}
    "MatMulInteger": {0: (2, -2), 1: (3, -1)},
    "ConvInteger": {0: (2, 1), 1: (3, 0)},
    "QLinearConv": {0: (2, 1), 3: (5, 0)},
    "QLinearMatMul": {0: (2, -2), 3: (5, -1)},
    "QGemm": {0: (2, 1), 3: (5, 0)},
    "DynamicQuantizeMatMul": {1: (3, -1)},
    "MatMulIntegerToFloat": {0: (4, -2), 1: (5, -1)},
}


def count_parameters(weight: Weight) -> tuple[int, int]:
    """Return the parameters a weight holds and how many of them are not zero; (0, 0) for what is no parameter."""
    if not weight.is_parameter:
        return 0, 0
    array = weight.numpy()
    if weight.tensor.dtype.is_integer():
        for node, index in weight.users:
            if node.op_type == "MatMulNBits" and index == 1:
                return _count_blocks(node, array)
        zero = next((found for user in weight.users if (found := zero_point(*user, array.ndim)) is not None), None)
        if zero is not None:
            if zero.ndim == array.ndim:  # a last block may be longer than what is left of the axis
                zero = zero[tuple(slice(size) for size in array.shape)]
            return array.size, int(np.count_nonzero(_widened(array) != zero))
    return array.size, int(np.count_nonzero(array))


def _widened(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return integers of fewer than 8 bits as bytes: numpy can't compare them with others."""
    return (
        array.astype(np.int8 if array.dtype.name.startswith("int") else np.uint8) if array.dtype.kind == "V" else array
    )


def _constant(node: ir.Node, index: int) -> np.ndarray[Any, Any] | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    if value.is_initializer() and value.const_value is not None:
        return value.const_value.numpy()
    producer = value.producer()
    return constant_tensor(producer).numpy() if producer is not None and is_constant(producer) else None


def zero_point(node: ir.Node, index: int, rank: int) -> np.ndarray[Any, Any] | None:
    """Return the zero point at one use of a weight, shaped to be compared with it; None if there is none."""
    if node.op_type == "DequantizeLinear" and index == 0:
        zero, axis = _constant(node, 2), node.attributes.get_int("axis", 1)
        block = node.attributes.get_int("block_size", 0)
        if zero is not None and block:
            return np.repeat(_widened(zero), block, axis=axis)
    else:
        position, axis = _ZERO_POINTS.get(node.op_type, {}).get(index, (None, 0))
        zero = _constant(node, position) if position is not None else None
    if zero is None:
        return None
    zero = _widened(zero)
    if zero.size == 1:
        return zero.reshape(())
    if zero.ndim != 1:
        return zero
    shape = [1] * rank
    shape[axis] = zero.size
    return zero.reshape(shape)


def _count_blocks(node: ir.Node, packed: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Count a `MatMulNBits` weight: [N, blocks, bytes], each byte with 8/bits elements, the lower one first."""
    bits = node.attributes.get_int("bits", 4)
    inner, outer = node.attributes.get_int("K", 0), node.attributes.get_int("N", 0)
    elements = _unpack(packed.reshape(outer, -1), bits)
    blocks = packed.reshape(outer, -1).shape[1] * 8 // bits // node.attributes.get_int("block_size", 32)
    zeros = _constant(node, 3)
    if zeros is None:
        zero: np.ndarray[Any, Any] = np.full((outer, blocks), 1 << (bits - 1))
    elif zeros.dtype == np.uint8:
        zero = _unpack(zeros.reshape(outer, -1), bits)[:, :blocks]
    else:
        zero = zeros.reshape(outer, -1)
    spread = np.repeat(zero, node.attributes.get_int("block_size", 32), axis=1)[:, :inner]
    return inner * outer, int(np.count_nonzero(elements[:, :inner] != spread))


def _unpack(rows: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    if bits == 8:
        return rows
    mask = (1 << bits) - 1
    parts = [(rows >> shift) & mask for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(rows.shape[0], -1)
