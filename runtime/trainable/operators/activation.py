"""Activations, each as the one torch operator that is meant where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch.nn import functional as F

for _name, _function in {
    "Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Softsign": F.softsign, "Mish": F.mish,
}.items():  # fmt: skip
    operator(_name)((lambda function: lambda call: function)(_function))


@operator("Softplus")
def softplus(call: Call) -> Compute:
    """log(1 + exp(x)), for large x without torch's shortcut."""
    return lambda x: torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))


@operator("LeakyRelu")
def leaky_relu(call: Call) -> Compute:
    """x, of what is negative alpha · x."""
    alpha = call.attribute("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


@operator("PRelu")
def prelu(call: Call) -> Compute:
    """As LeakyRelu, with a slope for each element that the tensor broadcasts to."""

    def compute(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        aligned = (1,) * (x.dim() - slope.dim()) + tuple(slope.shape)
        if x.is_floating_point() and x.dim() > 1 and aligned == (1, x.shape[1], *[1] * (x.dim() - 2)):
            return torch.prelu(x, slope.reshape(-1))
        return torch.where(x < 0, x * slope, x)

    return compute


@operator("Elu")
def elu(call: Call) -> Compute:
    """alpha · (exp(x) - 1) where negative."""
    alpha = call.attribute("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@operator("Celu")
def celu(call: Call) -> Compute:
    """alpha · (exp(x / alpha) - 1) where negative."""
    alpha = call.attribute("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@operator("Selu")
def selu(call: Call) -> Compute:
    """gamma · Elu."""
    alpha = call.attribute("alpha", 1.67326319217681884765625)
    gamma = call.attribute("gamma", 1.05070102214813232421875)
    return lambda x: gamma * F.elu(x, alpha)


@operator("ThresholdedRelu")
def thresholded_relu(call: Call) -> Compute:
    """x above alpha, else zero."""
    alpha = call.attribute("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(call: Call) -> Compute:
    """Moved towards zero by the bias where further from it than lambd, else zero."""
    bias, limit = call.attribute("bias", 0.0), call.attribute("lambd", 0.5)

    def compute(x: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros_like(x)
        moved = torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, zero))
        return moved.to(x.dtype)

    return compute


@operator("HardSigmoid")
def hard_sigmoid(call: Call) -> Compute:
    """clip(alpha · x + beta, 0, 1)."""
    alpha, beta = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return F.hardsigmoid
    return lambda x: F.hardtanh(x * alpha + beta, 0.0, 1.0)


@operator("HardSwish")
def hard_swish(call: Call) -> Compute:
    """x · clip(x / 6 + 1/2, 0, 1)."""
    return F.hardswish


@operator("Gelu")
def gelu(call: Call) -> Compute:
    """x · Φ(x)."""
    approximate = call.attribute("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@operator("Swish")
def swish(call: Call) -> Compute:
    """x · sigmoid(alpha · x)."""
    alpha = call.attribute("alpha", 1.0)
    return F.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


@operator("Clip")
def clip(call: Call) -> Compute:
    """Cut to limits: attributes before opset 11, inputs since."""
    if call.opset < 11:
        return _between(call.attribute("min"), call.attribute("max"))
    low, high = call.constant(1), call.constant(2)
    if (low is None) == (not call.has(1)) and (high is None) == (not call.has(2)):
        numbers = [None if limit is None else limit.reshape(-1)[0].item() for limit in (low, high)]
        cut = _between(*numbers)
        return lambda x, *_: cut(x)
    return clamp


def clamp(x: torch.Tensor, low: torch.Tensor | None = None, high: torch.Tensor | None = None) -> torch.Tensor:
    """Cut to limits that are tensors; the upper one wins where they cross."""
    if x.dtype in (torch.uint16, torch.uint32, torch.uint64):
        wide = (None if limit is None else limit.to(torch.int64) for limit in (low, high))
        return clamp(x.to(torch.int64), *wide).to(x.dtype)
    if low is not None:
        x = torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _between(low: float | None, high: float | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if low is None and high is None:
        return lambda x: x
    if low is not None and high is not None and low <= high:
        # hardtanh keeps its result for the gradient where it can, clamp its argument.
        return lambda x: F.hardtanh(x, low, high) if x.is_floating_point() else _clamped(x, low, high)
    return lambda x: _clamped(x, low, high)


def _clamped(x: torch.Tensor, low: float | None, high: float | None) -> torch.Tensor:
    if x.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return torch.clamp(x.to(torch.int64), low, high).to(x.dtype)
    return torch.clamp(x, low, high)
