"""Tensors in three forms: onnx_ir's, numpy's, torch's. All of ONNX's element types, exactly.

Types that torch computes with are themselves. 4-bit integers are carried in a byte each, 4-bit floats as float32;
strings stay numpy arrays of
objects, since torch has none.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

TORCH_DTYPES: Final[dict[ir.DataType, torch.dtype]] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
    ir.DataType.INT4: torch.int8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.INT2: torch.int8,
    ir.DataType.UINT2: torch.uint8,
    ir.DataType.FLOAT4E2M1: torch.float32,
    ir.DataType.FLOAT8E8M0: torch.float8_e8m0fnu,
    ir.DataType.FLOAT8E4M3FN: torch.float8_e4m3fn,
    ir.DataType.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    ir.DataType.FLOAT8E5M2: torch.float8_e5m2,
    ir.DataType.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}
"""Element type → the torch type that carries it (4- and 2-bit integers: a byte; 4-bit floats: float32)."""

_FLOAT8: Final = {
    "float8_e8m0fnu": torch.float8_e8m0fnu,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2": torch.float8_e5m2,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
}
_NARROW: Final[dict[str, type[np.generic]]] = {
    "int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8,
    "float4_e2m1fn": np.float32,
}  # fmt: skip

Content: TypeAlias = "torch.Tensor | NDArray[Any]"
"""A tensor, or an array of strings."""


def to_torch(array: NDArray[Any]) -> Content:
    """Return a copy of an array as a tensor; an array of strings as it is.

    Raises:
        TypeError: torch has no such element type.
    """
    array = np.asarray(array)
    name = array.dtype.name
    if array.dtype.kind in "OUS":
        return array
    if name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if name in _FLOAT8:
        return torch.from_numpy(array.view(np.uint8).copy()).view(_FLOAT8[name])
    if name in _NARROW:
        return torch.from_numpy(array.astype(_NARROW[name]))
    native = array.astype(array.dtype.newbyteorder("="), copy=True, order="C")
    return torch.from_numpy(native)


def to_numpy(content: Content) -> NDArray[Any]:
    """Return a tensor's content as an array; bfloat16 and float8 by the types of ml_dtypes."""
    if not isinstance(content, torch.Tensor):
        return content
    tensor = content.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return _viewed(tensor.view(torch.int16), ir.DataType.BFLOAT16.numpy())
    for name, dtype in _FLOAT8.items():
        if tensor.dtype == dtype:
            import ml_dtypes

            return _viewed(tensor.view(torch.uint8), np.dtype(getattr(ml_dtypes, name)))
    found: NDArray[Any] = tensor.numpy()
    return found


def _viewed(tensor: torch.Tensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array.view(dtype)


def of_tensor(tensor: ir.TensorProtocol) -> Content:
    """Return what an onnx_ir tensor holds."""
    if tensor.dtype == ir.DataType.STRING:
        texts = [text.decode("utf-8") for text in tensor.string_data()]  # type: ignore[attr-defined]
        return np.array(texts, dtype=object).reshape(tuple(tensor.shape.numpy()))
    return to_torch(tensor.numpy())
