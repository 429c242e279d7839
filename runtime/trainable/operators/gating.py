"""Gated activations of two inputs."""

from __future__ import annotations

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch import Tensor
from torch.nn import functional


@operator("SwiGLU")
def prepare_swiglu(call: Call) -> Compute:
    """a · sigmoid(alpha · a) · b (Shazeer, 2020)."""
    alpha = call.attribute("alpha", 1.0)

    def compute(a: Tensor, b: Tensor) -> Tensor:
        return (functional.silu(a) if alpha == 1.0 else a * torch.sigmoid(alpha * a)) * b

    return compute
