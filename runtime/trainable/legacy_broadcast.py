"""Broadcasting as it was before opset 7: an operand's axes are laid beside those of the other from `axis` on."""

from __future__ import annotations

import torch
from mopt.runtime.trainable.operator import Call, Compute


def aligned(call: Call, compute: Compute) -> Compute:
    """Return the function with the second operand reshaped as the attributes `broadcast` and `axis` say."""
    if call.opset >= 7 or not call.attribute("broadcast", 0):
        return compute
    axis = call.attribute("axis")
    if axis is None:
        return compute

    def legacy(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        first = axis % a.dim()
        found: torch.Tensor = compute(a, b.reshape(b.shape + (1,) * (a.dim() - first - b.dim())))
        return found

    return legacy
