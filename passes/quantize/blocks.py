"""Block-wise quantisation of arrays, and the bit layouts of what stores it.

An element is `w ≈ scale × (q - zero)`, with `q` from 0 to 2^bits - 1; `scale` and `zero` belong to a block of
neighbours along the last axis. Zero is always representable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


@dataclass(frozen=True)
class Blocks:
    """A quantised array.

    Attributes:
        values: uint8, [..., K]; each from 0 to 2^bits - 1.
        scale: float32, [..., ceil(K / block)].
        zero: uint8, of `scale`'s shape.
    """

    values: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.uint8]


def quantize(array: NDArray[Any], bits: int, block: int, *, symmetric: bool) -> Blocks:
    """Round an array [..., K] to the nearest level, block by block along its last axis."""
    size = array.shape[-1]
    split = _split(array.astype(np.float32), block)
    scale, zero = levels(split, bits, symmetric=symmetric)
    steps = np.rint(split / scale[..., None]) + zero[..., None].astype(np.float32)
    values = np.clip(steps, 0, (1 << bits) - 1).astype(np.uint8)
    return Blocks(values.reshape(*array.shape[:-1], -1)[..., :size], scale, zero)


def levels(split: NDArray[np.float32], bits: int, *, symmetric: bool) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return scale and zero of each block of an array [..., blocks, block]."""
    top, middle = (1 << bits) - 1, 1 << (bits - 1)
    low, high = np.minimum(split.min(-1), 0), np.maximum(split.max(-1), 0)
    span = np.maximum(high, -low) / (middle - 1) if symmetric else (high - low) / np.float32(top)
    # A block of denormal numbers may have no scale that float32 can hold: it is all zeros then.
    scale = np.maximum(np.where(span > 0, span, 1), np.finfo(np.float32).tiny).astype(np.float32)
    zero = np.full(scale.shape, middle) if symmetric else np.clip(np.rint(-low / scale), 0, top)
    return scale, zero.astype(np.uint8)


def dequantize(found: Blocks, block: int) -> NDArray[np.float32]:
    """Return what a quantised array stands for."""
    size = found.values.shape[-1]
    scale = np.repeat(found.scale, block, axis=-1)[..., :size]
    zero = np.repeat(found.zero, block, axis=-1)[..., :size].astype(np.float32)
    restored: NDArray[np.float32] = scale * (found.values.astype(np.float32) - zero)
    return restored


def packed_rows(values: NDArray[np.uint8], bits: int, multiple: int) -> NDArray[np.uint8]:
    """Pack rows [N, K] into bytes, lower bits first, after filling them up to a multiple of elements with zeros."""
    filled = np.pad(values, ((0, 0), (0, -values.shape[1] % multiple)))
    if bits == 8:
        return filled
    pairs: NDArray[np.uint8] = filled[:, 0::2] | (filled[:, 1::2] << np.uint8(4))
    return pairs


def tensor(values: NDArray[np.uint8], bits: int, *, signed: bool = False) -> ir.TensorProtocol:
    """Return values as a tensor of that many bits, packed where there are 4; less the middle where `signed`."""
    middle = 1 << (bits - 1)
    # Adding the middle and dropping the carry is subtracting it in two's complement.
    stored = (values + np.uint8(middle)) & np.uint8(2 * middle - 1) if signed else values
    if bits == 8:
        return ir.Tensor(np.ascontiguousarray(stored).view(np.int8 if signed else np.uint8))
    packed = packed_rows(stored.reshape(1, -1), 4, 2).reshape(-1)
    return ir.PackedTensor(packed, ir.DataType.INT4 if signed else ir.DataType.UINT4, shape=ir.Shape(values.shape))


def _split(array: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """Cut the last axis into blocks; what a last block lacks repeats the array's last elements."""
    missing = -array.shape[-1] % block
    if missing:
        array = np.concatenate((array, np.repeat(array[..., -1:], missing, axis=-1)), axis=-1)
    return array.reshape(*array.shape[:-1], -1, block)
