"""Normalisations."""

from __future__ import annotations

from typing import Any

import torch
from mopt.runtime.trainable.operator import Call, Compute, UnsupportedOperatorError, operator
from torch.nn import functional as F


@operator("BatchNormalization")
def batch_normalization(call: Call) -> Compute:
    """Over all axes but 1. In training, running statistics that are the runner's buffers follow the batch's.

    Their momentum is the node's (running · momentum + batch · (1 - momentum)); the variance that is followed is
    PyTorch's, of n - 1 degrees of freedom. A node with training_mode=1 does what ONNX says, variance included.
    """
    epsilon, momentum = call.attribute("epsilon", 1e-5), call.attribute("momentum", 0.9)
    if call.attribute("spatial", 1) != 1:
        raise UnsupportedOperatorError("a batch normalisation for each activation (spatial=0)")
    if call.attribute("training_mode", 0) or (call.opset < 7 and not call.attribute("is_test", 0) and call.outputs > 1):
        return _training_form(epsilon, momentum)
    mode, follows = call.mode, {3, 4} <= call.state

    def compute(
        x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
    ) -> torch.Tensor:
        if mode.training and mode.train_batch_norm and follows:
            return F.batch_norm(x, mean, variance, scale, bias, True, 1 - momentum, epsilon)
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)

    return compute


def _training_form(epsilon: float, momentum: float) -> Compute:
    def compute(
        x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        with torch.no_grad():
            wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            now, spread = wide.mean(axes), wide.var(axes, unbiased=False)
            after = mean * momentum + now.to(mean.dtype) * (1 - momentum)
            wider = variance * momentum + spread.to(variance.dtype) * (1 - momentum)
        return F.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon), after, wider

    return compute


@operator("InstanceNormalization")
def instance_normalization(call: Call) -> Compute:
    """Each channel of each sample by itself."""
    epsilon = call.attribute("epsilon", 1e-5)
    return lambda x, scale, bias: F.instance_norm(x, None, None, scale, bias, True, 0.0, epsilon)


@operator("LayerNormalization")
def layer_normalization(call: Call) -> Compute:
    """Over the axes from `axis` on; mean and inverse deviation are further outputs."""
    axis, epsilon, outputs = call.attribute("axis", -1), call.attribute("epsilon", 1e-5), call.outputs

    def compute(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        first = axis % x.dim()
        shape = x.shape[first:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            normal = F.layer_norm(x, shape, scale, bias, epsilon)
        else:
            normal = F.layer_norm(x, shape, None, None, epsilon) * scale
            normal = normal if bias is None else normal + bias
        if outputs == 1:
            return normal
        axes = list(range(first, x.dim()))
        mean = x.float().mean(axes, keepdim=True)
        deviation = torch.rsqrt(x.float().var(axes, unbiased=False, keepdim=True) + epsilon)
        return (normal, mean, deviation)[:outputs]

    return compute


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_normalization(call: Call) -> Compute:
    """x / sqrt(mean(x²) + epsilon) · scale, over the axes from `axis` on."""
    axis, epsilon = call.attribute("axis", -1), call.attribute("epsilon", 1e-5)

    def compute(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        shape = x.shape[axis % x.dim() :]
        if scale.shape == shape:
            return F.rms_norm(x, shape, scale, epsilon)
        return F.rms_norm(x, shape, None, epsilon) * scale

    return compute


@operator("GroupNormalization")
def group_normalization(call: Call) -> Compute:
    """Groups of channels; before opset 21 scale and bias have one element a group."""
    groups, epsilon = call.attribute("num_groups"), call.attribute("epsilon", 1e-5)

    def compute(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        if scale.shape[0] != x.shape[1]:
            each = x.shape[1] // groups
            scale, bias = scale.repeat_interleave(each), bias.repeat_interleave(each)
        return F.group_norm(x, groups, scale, bias, epsilon)

    return compute


@operator("LRN")
def lrn(call: Call) -> Compute:
    """Divided by a power of the sum of squares over neighbouring channels."""
    size, alpha = call.attribute("size"), call.attribute("alpha", 1e-4)
    beta, bias = call.attribute("beta", 0.75), call.attribute("bias", 1.0)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2

    def compute(x: torch.Tensor) -> torch.Tensor:
        squares = F.pad(x.square(), [0, 0] * (x.dim() - 2) + [before, after])
        total = squares.unfold(1, size, 1).sum(-1)
        return x / torch.pow(bias + alpha / size * total, beta)

    return compute


@operator("LpNormalization")
def lp_normalization(call: Call) -> Compute:
    """Divided by the norm along an axis."""
    axis, order = call.attribute("axis", -1), call.attribute("p", 2)

    def compute(x: torch.Tensor) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, order, axis, keepdim=True)
        # A vector of zeros stays one.
        return x / torch.where(norm == 0, torch.ones_like(norm), norm)

    return compute


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call) -> Compute:
    """To mean 0 and variance 1 over the axes."""
    axes = call.attribute("axes", (0, 2, 3))

    def compute(x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(axes, keepdim=True)
        deviation = (x.square().mean(axes, keepdim=True) - mean.square()).sqrt()
        return (x - mean) / (deviation + 1e-9)

    return compute
