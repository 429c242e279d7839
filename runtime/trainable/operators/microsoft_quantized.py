"""onnxruntime's operators from bytes to bytes (domain com.microsoft): back to real numbers, computed, rounded again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call, Compute, UnsupportedOperatorError, operator
from mopt.runtime.trainable.operators.integer_arithmetic import integer_product, spread
from mopt.runtime.trainable.operators.pooling import prepare_average_pool
from mopt.runtime.trainable.rounding import Rounding
from torch import Tensor
from torch.nn import functional

DOMAIN: Final = "com.microsoft"
Function = Callable[..., Tensor]


def _real(x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    levels = x.to(scale.dtype)
    return (levels if zero is None else levels - zero.to(scale.dtype)) * scale


def _rounding(call: Call, zero: int) -> Rounding:
    """To the zero point's type; to the first input's where there is no zero point."""
    if call.has(zero):
        return Rounding(call, zero)
    first = call.node.inputs[0]
    if first is None or first.dtype is None:
        raise UnsupportedOperatorError("a quantised result of unknown type: neither zero point nor input tells it")
    return Rounding(call, None, element=first.dtype)


def _one(call: Call, function: Function) -> Compute:
    rounding = _rounding(call, 4)

    def compute(x: Tensor, scale: Tensor, zero: Any, to_scale: Tensor, to_zero: Tensor | None = None) -> Tensor:
        return rounding(function(_real(x, scale, zero)), to_scale, to_zero)

    return compute


@operator("QLinearAdd", "QLinearMul", domain=DOMAIN)
def prepare_binary(call: Call) -> Compute:
    """The sum or product of two."""
    combine = torch.add if call.node.op_type == "QLinearAdd" else torch.mul
    rounding = _rounding(call, 7)

    def compute(a: Tensor, sa: Tensor, za: Any, b: Tensor, sb: Tensor, zb: Any, s: Tensor, z: Any = None) -> Tensor:
        return rounding(combine(_real(a, sa, za), _real(b, sb, zb)), s, z)

    return compute


@operator("QLinearSigmoid", domain=DOMAIN)
def prepare_sigmoid(call: Call) -> Compute:
    """The logistic function."""
    return _one(call, torch.sigmoid)


@operator("QLinearLeakyRelu", domain=DOMAIN)
def prepare_leaky_relu(call: Call) -> Compute:
    """The leaky rectifier."""
    alpha = call.attribute("alpha", 0.01)
    return _one(call, lambda x: functional.leaky_relu(x, alpha))


@operator("QLinearSoftmax", domain=DOMAIN)
def prepare_softmax(call: Call) -> Compute:
    """Softmax over one axis, or over all from it on where it stands for an operator before set 13."""
    axis, flat = call.attribute("axis", -1), call.attribute("opset", 13) < 13

    def softmax(x: Tensor) -> Tensor:
        if not flat:
            return torch.softmax(x, axis)
        return torch.softmax(x.flatten(axis % x.dim()), -1).reshape(x.shape)

    return _one(call, softmax)


def _channels_first(call: Call, function: Function) -> Function:
    if not call.attribute("channels_last", 0):
        return function
    return lambda x: function(x.movedim(-1, 1)).movedim(1, -1)


@operator("QLinearGlobalAveragePool", domain=DOMAIN)
def prepare_global_average_pool(call: Call) -> Compute:
    """The mean of each channel."""

    def mean(x: Tensor) -> Tensor:
        return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)

    return _one(call, _channels_first(call, mean))


@operator("QLinearAveragePool", domain=DOMAIN)
def prepare_average(call: Call) -> Compute:
    """The mean of windows."""
    return _one(call, _channels_first(call, prepare_average_pool(call)))


@operator("QLinearReduceMean", domain=DOMAIN)
def prepare_reduce_mean(call: Call) -> Compute:
    """The mean over axes."""
    axes, keep = call.attribute("axes", ()), bool(call.attribute("keepdims", 1))
    return _one(call, lambda x: x.mean(dim=tuple(axes) or tuple(range(x.dim())), keepdim=keep))


@operator("QLinearConcat", domain=DOMAIN)
def prepare_concat(call: Call) -> Compute:
    """Tensors joined, each on a grid of its own before."""
    rounding, axis = Rounding(call, 1), call.attribute("axis")

    def compute(scale: Tensor, zero: Tensor, *parts: Any) -> Tensor:
        real = [_real(*parts[place : place + 3]) for place in range(0, len(parts), 3)]
        return rounding(torch.cat(real, axis), scale, zero)

    return compute


@operator("QLinearWhere", domain=DOMAIN)
def prepare_where(call: Call) -> Compute:
    """One or the other."""
    rounding = Rounding(call, 8)

    def compute(which: Tensor, *inputs: Any) -> Tensor:
        x, y, (scale, zero) = inputs[0:3], inputs[3:6], inputs[6:8]
        return rounding(torch.where(which, _real(*x), _real(*y)), scale, zero)

    return compute


@operator("QGemm", domain=DOMAIN)
def prepare_gemm(call: Call) -> Compute:
    """alpha · A' B' + C, C in steps of the product; floats where no scale of the result is given."""
    alpha = call.attribute("alpha", 1.0)
    left, right = bool(call.attribute("transA", 0)), bool(call.attribute("transB", 0))
    rounding = _rounding(call, 8) if call.has(7) else None

    def compute(
        a: Tensor, sa: Tensor, za: Any, b: Tensor, sb: Tensor, zb: Any, c: Any = None, s: Any = None, z: Any = None
    ) -> Tensor:
        columns = spread(zb, 2, 0 if right else 1) if zb is not None else None
        levels = b.double() if columns is None else b.double() - columns.double()
        total = integer_product(a.t() if left else a, levels.t() if right else levels, za, None)
        total = total if c is None else total + c.double()
        real = total * (alpha * sa.double() * sb.double())
        return real.to(sa.dtype) if rounding is None else rounding(real.to(sa.dtype), s, z)

    return compute
