"""Softmax, its logarithm, and Hardmax."""

from __future__ import annotations

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch.nn import functional as F


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(call: Call) -> Compute:
    """Along one axis; before opset 13 over all axes from `axis` on, taken as one."""
    function = {"Softmax": torch.softmax, "LogSoftmax": torch.log_softmax, "Hardmax": _hardmax}[call.node.op_type]
    if call.opset >= 13:
        axis = call.attribute("axis", -1)
        return lambda x: function(x, axis)
    first = call.attribute("axis", 1)

    def compute(x: torch.Tensor) -> torch.Tensor:
        start = first % x.dim() if x.dim() else 0
        if start == x.dim() - 1:
            return function(x, -1)
        return function(x.flatten(start), -1).reshape(x.shape)

    return compute


def _hardmax(x: torch.Tensor, axis: int) -> torch.Tensor:
    """One where the first of the largest elements is, else zero."""
    chosen = F.one_hot(x.argmax(axis), x.shape[axis]).to(x.dtype)
    return chosen.movedim(-1, axis)
