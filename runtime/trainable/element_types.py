"""How the runner holds ONNX's element types in torch.

Types that torch has no arithmetic for are held by wider ones that contain all their values: 2- and 4-bit integers by
8-bit integers, `float4e2m1` by `float32`. What rounds or saturates to such a type (Cast, QuantizeLinear) does so by
the type's own limits; everything else only sees the values.
"""

from __future__ import annotations

from typing import Final

import onnx_ir
import torch
from mopt.runtime.trainable.operator import UnsupportedOperatorError
from mopt.runtime.trainable.tensors import TORCH_DTYPES

_E: Final = onnx_ir.DataType

TORCH_TYPES: Final[dict[onnx_ir.DataType, torch.dtype]] = {
    **TORCH_DTYPES,
    _E.FLOAT8E8M0: torch.float8_e8m0fnu,
    _E.FLOAT4E2M1: torch.float32,
}
"""What holds each of ONNX's element types."""

INTEGER_LIMITS: Final[dict[onnx_ir.DataType, tuple[int, int]]] = {
    _E.INT2: (-2, 1), _E.UINT2: (0, 3), _E.INT4: (-8, 7), _E.UINT4: (0, 15),
    _E.INT8: (-128, 127), _E.UINT8: (0, 255), _E.INT16: (-(1 << 15), (1 << 15) - 1), _E.UINT16: (0, (1 << 16) - 1),
    _E.INT32: (-(1 << 31), (1 << 31) - 1), _E.UINT32: (0, (1 << 32) - 1), _E.INT64: (-(1 << 63), (1 << 63) - 1),
    _E.UINT64: (0, (1 << 64) - 1),
}  # fmt: skip
"""Least and greatest value of each integer type."""


def torch_type(code: int) -> torch.dtype:
    """Return the torch type that holds an element type given by its number in ONNX (an attribute `to` or `dtype`).

    Raises:
        UnsupportedOperatorError: torch has nothing to hold it in (strings).
    """
    element = onnx_ir.DataType(code)
    if element not in TORCH_TYPES:
        raise UnsupportedOperatorError(f"elements of type {element.name.lower()}, which torch cannot hold")
    return TORCH_TYPES[element]


def to_float4(x: torch.Tensor) -> torch.Tensor:
    """Round to the nearest of 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives, ties to the even mantissa; saturates."""
    size = x.abs().clamp(max=6.0)
    rounded = torch.where(size < 2, (size * 2).round() / 2, torch.where(size < 4, size.round(), (size / 2).round() * 2))
    return torch.copysign(rounded, x)
