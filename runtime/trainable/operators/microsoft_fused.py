"""What onnxruntime's optimiser fuses (domain com.microsoft): products, convolutions, activations, normalisations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call, Compute, UnsupportedOperatorError, operator
from mopt.runtime.trainable.operators.convolution import conv
from mopt.runtime.trainable.operators.matmul import gemm
from torch import Tensor
from torch.nn import functional

DOMAIN: Final = "com.microsoft"

_ACTIVATIONS: Final[dict[str, Callable[..., Tensor]]] = {
    "Relu": torch.relu,
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "LeakyRelu": lambda x, alpha=0.01: functional.leaky_relu(x, alpha),
    "Clip": lambda x, low, high: x.clamp(low, high),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: torch.clamp(alpha * x + beta, 0, 1),
    "Elu": lambda x, alpha=1.0: functional.elu(x, alpha),
    "HardSwish": lambda x, *_: functional.hardswish(x),
}


def _activation(call: Call, parameters: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    name = call.attribute("activation", "")
    if not name:
        return lambda x: x
    if name not in _ACTIVATIONS:
        raise UnsupportedOperatorError(f"activation `{name}`")
    function = _ACTIVATIONS[name]
    return lambda x: function(x, *parameters)


@operator("FusedConv", domain=DOMAIN)
def prepare_fused_conv(call: Call) -> Compute:
    """A convolution, a sum with a fourth input, an activation."""
    convolve, activate = conv(call), _activation(call, call.attribute("activation_params", ()))

    def compute(x: Tensor, w: Tensor, bias: Tensor | None = None, more: Tensor | None = None) -> Tensor:
        result = convolve(x, w, bias)
        return activate(result if more is None else result + more)

    return compute


@operator("FusedGemm", domain=DOMAIN)
def prepare_fused_gemm(call: Call) -> Compute:
    """Gemm and an activation."""
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    given = tuple(value for name in names if (value := call.attribute(name)) is not None)
    product, activate = gemm(call), _activation(call, given)
    return lambda *inputs: activate(product(*inputs))


@operator("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def prepare_fused_matmul(call: Call) -> Compute:
    """alpha · A' B', with the last two axes, and before them the first one into their place, swapped."""
    alpha = call.attribute("alpha", 1.0)
    left = bool(call.attribute("transA", 0)), bool(call.attribute("transBatchA", 0))
    right = bool(call.attribute("transB", 0)), bool(call.attribute("transBatchB", 0))

    def compute(a: Tensor, b: Tensor) -> Tensor:
        result = torch.matmul(_turned(a, *left), _turned(b, *right))
        return result if alpha == 1.0 else alpha * result

    return compute


def _turned(x: Tensor, last: bool, batch: bool) -> Tensor:
    if batch:  # [M, batch…, K] → [batch…, M, K]
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if last and x.dim() > 1 else x


@operator("Gelu", domain=DOMAIN)
def prepare_gelu(call: Call) -> Compute:
    """x · Φ(x)."""
    return lambda x: functional.gelu(x)


@operator("BiasGelu", domain=DOMAIN)
def prepare_bias_gelu(call: Call) -> Compute:
    """Gelu of a sum."""
    return lambda x, bias: functional.gelu(x + bias)


@operator("FastGelu", domain=DOMAIN)
def prepare_fast_gelu(call: Call) -> Compute:
    """Gelu by tanh, of a sum where there is a bias."""
    return lambda x, bias=None: functional.gelu(x if bias is None else x + bias, approximate="tanh")


@operator("QuickGelu", domain=DOMAIN)
def prepare_quick_gelu(call: Call) -> Compute:
    """x · sigmoid(alpha · x)."""
    alpha = call.attribute("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


@operator("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def prepare_skip_normalization(call: Call) -> Compute:
    """The normalised sum of two inputs and a bias; the fourth output is the sum."""
    simplified = "Simplified" in call.node.op_type
    normalise = partial(_normal, epsilon=call.attribute("epsilon", 1e-5), simplified=simplified)

    def compute(x: Tensor, skip: Tensor, gamma: Tensor, *rest: Tensor | None) -> tuple[Any, ...]:
        beta, bias = (None, *rest, None)[:2] if simplified else (*rest, None, None)[:2]
        total = x + skip if bias is None else x + skip + bias
        return normalise(total, gamma, beta), None, None, total

    return compute


def _normal(x: Tensor, gamma: Tensor, beta: Tensor | None, epsilon: float, simplified: bool) -> Tensor:
    if simplified:
        return functional.rms_norm(x, gamma.shape, gamma, epsilon)
    return functional.layer_norm(x, gamma.shape, gamma, beta, epsilon)


@operator("EmbedLayerNormalization", domain=DOMAIN)
def prepare_embedding(call: Call) -> Compute:
    """The normalised sum of word, position and segment embeddings; how many tokens are unmasked; the sum."""
    epsilon = call.attribute("epsilon", 1e-12)

    def compute(ids: Tensor, segments: Any, words: Tensor, positions: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        segment, gamma, beta, mask, places = (*rest, None, None)[:5]
        at = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0) if places is None else places.long()
        total = functional.embedding(ids.long(), words) + functional.embedding(at, positions)
        if segments is not None and segment is not None:
            total = total + functional.embedding(segments.long(), segment)
        count = torch.zeros(ids.shape[0]) if mask is None else mask.sum(1)
        return _normal(total, gamma, beta, epsilon, False), count.to(torch.int32), total

    return compute
