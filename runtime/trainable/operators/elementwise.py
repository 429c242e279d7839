"""Arithmetic, comparison, logic, bits and casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import torch
from mopt.runtime.trainable.legacy_broadcast import aligned
from mopt.runtime.trainable.operator import Call, Compute, UnsupportedOperatorError, operator
from mopt.runtime.trainable.tensors import TORCH_DTYPES, to_torch

_WIDE_UNSIGNED: Final = (torch.uint16, torch.uint32, torch.uint64)
"""Types that torch stores but hardly computes with: computed in int64, whose low bits are the same."""


def exact(function: Callable[..., torch.Tensor]) -> Compute:
    """Let a function of tensors compute with unsigned types, too."""

    def compute(*tensors: torch.Tensor) -> torch.Tensor:
        dtype = tensors[0].dtype
        if dtype in _WIDE_UNSIGNED:
            found = function(*(tensor.to(torch.int64) for tensor in tensors))
            return found.to(dtype) if found.dtype == torch.int64 else found
        return function(*tensors)

    return compute


def _binary(function: Callable[..., torch.Tensor]) -> Callable[[Call], Compute]:
    def prepare(call: Call) -> Compute:
        value = call.node.inputs[0]
        if value is not None and value.dtype == ir.DataType.STRING:
            return lambda one, other: torch.from_numpy(np.asarray(one == other, dtype=bool))
        # What is known to be real needs no look at its type at every step.
        real = value is not None and value.dtype is not None and value.dtype.is_floating_point()
        return aligned(call, function if real else exact(function))

    return prepare


for _name, _function in {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul,
    "Equal": torch.eq, "Less": torch.lt, "LessOrEqual": torch.le, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
}.items():  # fmt: skip
    operator(_name)(_binary(_function))


def _plain(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Call], Compute]:
    return lambda call: exact(function)


def _floating(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Leave integers as they are."""
    return lambda x: function(x) if x.is_floating_point() else x


for _name, _single in {
    "Abs": torch.abs, "Neg": torch.neg, "Ceil": _floating(torch.ceil), "Floor": _floating(torch.floor),
    "Round": _floating(torch.round), "Sign": torch.sign, "Sqrt": torch.sqrt, "Exp": torch.exp, "Log": torch.log,
    "Reciprocal": torch.reciprocal, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan, "Asin": torch.asin,
    "Acos": torch.acos, "Atan": torch.atan, "Sinh": torch.sinh, "Cosh": torch.cosh, "Asinh": torch.asinh,
    "Acosh": torch.acosh, "Atanh": torch.atanh, "Erf": torch.erf, "IsNaN": torch.isnan, "Not": torch.logical_not,
    "BitwiseNot": torch.bitwise_not,
}.items():  # fmt: skip
    operator(_name)(_plain(_single))


@operator("Div")
def div(call: Call) -> Compute:
    """Real division of reals; integers are cut towards zero."""

    def compute(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if a.is_floating_point() or b.is_floating_point() or a.is_complex():
            return torch.div(a, b)
        return torch.div(a, b, rounding_mode="trunc")

    return aligned(call, exact(compute))


@operator("Mod")
def mod(call: Call) -> Compute:
    """The remainder with the divisor's sign; with fmod=1 the dividend's."""
    return exact(torch.fmod if call.attribute("fmod", 0) else torch.remainder)


@operator("Pow")
def power(call: Call) -> Compute:
    """The result has the base's type; small whole exponents that are known are computed as products."""
    exponent = call.constant(1)
    if exponent is not None and exponent.size == 1 and exponent.ndim == 0:
        number = exponent.item()
        if number == 2:
            return lambda x, _: torch.square(x)
        if isinstance(number, int | float):
            return lambda x, y: torch.pow(x, number) if x.is_floating_point() else _power(x, y)
    return aligned(call, _power)


def _power(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if not x.is_floating_point() and y.is_floating_point():
        return torch.pow(x.to(torch.promote_types(y.dtype, torch.float64)), y).to(x.dtype)
    if y.dtype in _WIDE_UNSIGNED:
        y = y.to(torch.int64)
    if x.dtype in _WIDE_UNSIGNED:
        return torch.pow(x.to(torch.int64), y).to(x.dtype)
    return torch.pow(x, y).to(x.dtype)


@operator("Sum", "Max", "Min", "Mean")
def variadic(call: Call) -> Compute:
    """Elementwise over any number of tensors."""
    function = {"Sum": torch.add, "Mean": torch.add, "Max": torch.maximum, "Min": torch.minimum}[call.node.op_type]
    both = exact(function)
    count = len(call.node.inputs)
    if call.node.op_type == "Mean":
        return lambda *tensors: reduce(both, tensors) / count
    return lambda *tensors: reduce(both, tensors)


@operator("Where")
def where(call: Call) -> Compute:
    """Choose elementwise."""

    def compute(condition: torch.Tensor, x: Any, y: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return np.where(condition.numpy(), x, y)
        return torch.where(condition, x, y)

    return compute


@operator("IsInf")
def is_inf(call: Call) -> Compute:
    """Infinite, of the signs asked for."""
    positive, negative = call.attribute("detect_positive", 1), call.attribute("detect_negative", 1)
    if positive and negative:
        return lambda x: torch.isinf(x)
    if positive:
        return lambda x: torch.isposinf(x)
    return (lambda x: torch.isneginf(x)) if negative else lambda x: torch.zeros_like(x, dtype=torch.bool)


@operator("BitShift")
def bit_shift(call: Call) -> Compute:
    """Shift unsigned integers; what is shifted out is lost."""
    left = call.attribute("direction") == "LEFT"

    def compute(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        wide, count = x.to(torch.int64), y.to(torch.int64)
        if left:
            return torch.bitwise_left_shift(wide, count).to(x.dtype)
        shifted = torch.bitwise_right_shift(wide, count)
        if x.dtype == torch.uint64:  # of int64's copies of the sign none belongs to an unsigned number
            rest = torch.bitwise_left_shift(torch.full_like(wide, -1), 64 - count)
            shifted = torch.where(count > 0, shifted & ~rest, wide)
        return shifted.to(x.dtype)

    return compute


@operator("BitCast")
def bit_cast(call: Call) -> Compute:
    """Read the same bits as another type of the same width."""
    dtype = _dtype(call.attribute("to"))
    return lambda x: x.view(dtype)


@operator("Cast")
def cast(call: Call) -> Compute:
    """Convert the element type."""
    kind = ir.DataType(call.attribute("to"))
    if kind == ir.DataType.FLOAT8E8M0:
        way = call.attribute("round_mode", "up")
        return lambda x: _power_of_two(x, way)
    return lambda x: converted(x, kind, saturate=bool(call.attribute("saturate", 1)))


@operator("CastLike")
def cast_like(call: Call) -> Compute:
    """Convert to the element type of another tensor."""
    like = call.node.inputs[1]
    declared = None if like is None else like.dtype
    if declared is not None:
        kind = declared
        return lambda x, _: converted(x, kind, saturate=bool(call.attribute("saturate", 1)))
    return lambda x, y: x.to(y.dtype) if isinstance(y, torch.Tensor) else converted(x, ir.DataType.STRING)


def converted(x: Any, kind: ir.DataType, *, saturate: bool = True) -> Any:
    """Convert a tensor (or an array of strings) to an element type.

    Raises:
        UnsupportedOperatorError: torch does not carry the type.
    """
    if kind == ir.DataType.STRING:
        return x if not isinstance(x, torch.Tensor) else _texts(x)
    if not isinstance(x, torch.Tensor):
        return torch.from_numpy(x.astype(kind.numpy())) if kind != ir.DataType.BFLOAT16 else _from_texts(x)
    dtype = _dtype(kind)
    if kind == ir.DataType.FLOAT4E2M1:
        return torch.from_numpy(x.detach().float().cpu().numpy().astype(kind.numpy()).astype(np.float32)).to(x.device)
    if kind.name.startswith("FLOAT8") or (x.dtype.is_floating_point and x.dtype.itemsize == 1):
        return _float8(x, kind, saturate)
    if kind in (ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2):
        return _narrow(x, kind)
    if dtype in _WIDE_UNSIGNED and x.is_floating_point():
        return x.to(torch.int64).to(dtype)
    return x.to(dtype)


def _dtype(kind: int | ir.DataType) -> torch.dtype:
    found = TORCH_DTYPES.get(ir.DataType(kind))
    if found is None:
        raise UnsupportedOperatorError(f"element type {ir.DataType(kind).name} is not supported")
    return found


def _narrow(x: torch.Tensor, kind: ir.DataType) -> torch.Tensor:
    """Keep the low bits, as a cast between integers does."""
    bits, signed = kind.bitwidth, kind.name.startswith("INT")
    low = x.to(torch.int64) & ((1 << bits) - 1)
    if signed:
        low = torch.where(low >= 1 << (bits - 1), low - (1 << bits), low)
    return low.to(TORCH_DTYPES[kind])


def _float8(x: torch.Tensor, kind: ir.DataType, saturate: bool) -> torch.Tensor:
    dtype = _dtype(kind)
    if not kind.name.startswith("FLOAT8"):
        return x.float().to(dtype)
    if saturate and kind != ir.DataType.FLOAT8E8M0:
        most = torch.finfo(dtype).max
        return x.float().clamp(-most, most).to(dtype)
    # What exceeds the range is NaN or infinite here, but the largest number in torch's own conversion.
    found = to_torch(x.detach().float().cpu().numpy().astype(kind.numpy()))
    assert isinstance(found, torch.Tensor)
    return found.to(x.device)


def _power_of_two(x: torch.Tensor, way: str) -> torch.Tensor:
    """Round to float8e8m0, whose numbers are the powers of two from -127 to 127."""
    fraction, exponent = torch.frexp(x.float())  # x = fraction · 2^exponent, fraction from 1/2 to 1
    above = {"up": fraction > 0.5, "down": torch.zeros_like(fraction, dtype=torch.bool)}.get(way, fraction >= 0.75)
    whole = (exponent - 1 + above.to(exponent.dtype)).clamp(-127, 127)
    whole = torch.where(x == 0, torch.full_like(whole, -127), whole)
    return torch.ldexp(torch.ones_like(fraction), whole).to(torch.float8_e8m0fnu)


def _texts(x: torch.Tensor) -> np.ndarray[Any, Any]:
    array = x.float().numpy() if x.dtype in (torch.bfloat16,) else x.numpy()
    texts = [_text(item) for item in array.reshape(-1)]
    return np.array(texts, dtype=object).reshape(array.shape)


def _text(item: Any) -> str:
    if np.issubdtype(type(item), np.floating):
        if np.isnan(item):
            return "NaN"
        return "INF" if item == np.inf else "-INF" if item == -np.inf else str(item)
    return str(item)


def _from_texts(x: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)
