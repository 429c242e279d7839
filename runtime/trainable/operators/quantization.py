"""Quantisers, dequantisers and the operators that compute on integers."""

from __future__ import annotations

from typing import Any

import onnx_ir
import torch
from mopt.runtime.trainable.element_types import torch_type
from mopt.runtime.trainable.operator import Call, Compute, operator
from mopt.runtime.trainable.operators.integer_arithmetic import integer_convolution, integer_product, spread
from mopt.runtime.trainable.rounding import Rounding, as_whole_floats, dynamic_levels
from torch import Tensor


def _fit(factor: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Shape a scale or zero point so that it broadcasts: per tensor, per channel of an axis, or per block along it."""
    if block:
        return factor.repeat_interleave(block, dim=axis).narrow(axis, 0, x.shape[axis])
    return spread(factor, x.dim(), axis)


@operator("QuantizeLinear")
@operator("QuantizeLinear", domain="com.microsoft")
def prepare_quantize(call: Call) -> Compute:
    """Exact as ONNX defines it; a fake quantiser with straight-through gradient where only dequantisers follow."""
    axis, block = call.attribute("axis", 1), call.attribute("block_size", 0)
    declared = call.attribute("output_dtype", 0)
    precision = call.attribute("precision", 0)
    rounding = Rounding(call, 2, element=onnx_ir.DataType(declared) if declared and not call.has(2) else None)

    def compute(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        real = x if x.is_floating_point() else x.to(scale.dtype)
        if precision:
            real = real.to(torch_type(precision))
        factor = _fit(scale, x, axis, block).to(real.dtype)
        return rounding(real, factor, None if zero is None else _fit(zero, x, axis, block))

    return compute


@operator("DequantizeLinear")
@operator("DequantizeLinear", domain="com.microsoft")
def prepare_dequantize(call: Call) -> Compute:
    """(x - zero point) · scale, in float32 or wider, given in the scale's type or the one asked for."""
    axis, block = call.attribute("axis", 1), call.attribute("block_size", 0)
    declared = call.attribute("output_dtype", 0)
    known = call.constant(2)
    centred = not call.has(2) or (known is not None and not known.any())

    def compute(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        wide = torch.promote_types(scale.dtype, torch.float32)
        factor = _fit(scale, x, axis, block).to(wide)
        if zero is not None and not centred:
            shift = _fit(zero, x, axis, block)
            if x.dtype == torch.int32:  # a float32 does not hold every one of these
                real = (x.to(torch.int64) - shift.to(torch.int64)).to(wide)
            else:
                real = x.to(wide) - shift.to(wide)
        else:
            real = x.to(wide)
        result = real * factor
        return result.to(torch_type(declared) if declared else scale.dtype)

    return compute


@operator("DynamicQuantizeLinear")
def prepare_dynamic_quantize(call: Call) -> Compute:
    """The range of this very tensor, widened to hold 0, over the 256 levels of an unsigned byte."""
    whole_floats = as_whole_floats(call)

    def compute(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        levels, scale, zero = dynamic_levels(x)
        return (levels if whole_floats else levels.to(torch.uint8)), scale, zero

    return compute


@operator("MatMulInteger")
def prepare_matmul_integer(call: Call) -> Compute:
    """The exact product of integers; zero points per tensor, per row of the first or per column of the second."""
    rounding = Rounding(call, None, element=onnx_ir.DataType.INT32)

    def compute(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        product = integer_product(a, b, a_zero, b_zero)
        return product if rounding.whole_floats else product.to(torch.int32)

    return compute


@operator("ConvInteger")
def prepare_conv_integer(call: Call) -> Compute:
    """The exact convolution of integers."""
    rounding = Rounding(call, None, element=onnx_ir.DataType.INT32)
    convolve = integer_convolution(call)

    def compute(x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
        result = convolve(x, w, x_zero, w_zero)
        return result if rounding.whole_floats else result.to(torch.int32)

    return compute


@operator("QLinearMatMul")
def prepare_qlinear_matmul(call: Call) -> Compute:
    """The product of two quantised matrices, quantised again."""
    rounding = Rounding(call, 7)

    def compute(
        a: Tensor,
        a_scale: Tensor,
        a_zero: Tensor,
        b: Tensor,
        b_scale: Tensor,
        b_zero: Tensor,
        scale: Tensor,
        zero: Tensor,
    ) -> Tensor:
        rows = a_scale.unsqueeze(-1) if a_scale.dim() == 1 and a_scale.numel() > 1 else a_scale
        step = scale.double() / (rows.double() * b_scale.double())
        return rounding(integer_product(a, b, a_zero, b_zero), step, zero)

    return compute


@operator("QLinearConv")
def prepare_qlinear_conv(call: Call) -> Compute:
    """The convolution of quantised tensors, quantised again; the bias is in steps of x_scale · w_scale."""
    rounding = Rounding(call, 7)
    convolve = integer_convolution(call)

    def compute(*inputs: Any) -> Tensor:
        x, x_scale, x_zero, w, w_scale, w_zero, scale, zero, *rest = inputs
        total = convolve(x, w, x_zero, w_zero)
        if rest and rest[0] is not None:
            total = total + spread(rest[0].double(), total.dim(), 1)
        step = scale.double() / (x_scale.double() * spread(w_scale.double(), total.dim(), 1))
        return rounding(total, step, zero)

    return compute
