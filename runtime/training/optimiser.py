"""Optimisers over the parameters of a network and its objective."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mopt.runtime.training.settings import Settings


def make_optimizer(settings: Settings, modules: Iterable[torch.nn.Module]) -> Any:
    """Return the optimiser of a run; what has one axis or none (biases, norms, scales) does not decay."""
    parameters = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # One kernel for all elements of a tensor: on small networks the optimiser is a good part of a step otherwise.
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    match settings.optimizer:
        case "sgd":
            nesterov = settings.momentum > 0
            return torch.optim.SGD(groups, settings.rate, momentum=settings.momentum, nesterov=nesterov, fused=fused)
        case "adam":
            return torch.optim.Adam(groups, settings.rate, fused=fused)
    return torch.optim.AdamW(groups, settings.rate, fused=fused)
