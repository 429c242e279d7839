"""Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mopt.runtime.trainable.operator import Call, Compute, operator


@operator("Dropout", host=(1, 2))
def dropout(call: Call) -> Compute:
    """Nothing at inference; in training elements become zero with probability `ratio`, and the rest grows.

    A node whose graph asks for training (training_mode) always drops; one that does not say drops while the runner
    trains, unless it was made without dropout.
    """
    outputs, mode, ratio = call.outputs, call.mode, call.attribute("ratio", 0.5)
    seed = call.attribute("seed")
    # A node with a seed of its own draws what ONNX's reference draws, the others from torch's global generator.
    own = None if seed is None else np.random.RandomState(int(seed))

    def compute(x: torch.Tensor, given: Any = None, training: Any = None) -> Any:
        share = ratio if given is None else float(given)
        active = bool(training) if training is not None else mode.training and mode.dropout
        kept = None
        if active and share > 0:
            drawn = torch.rand(x.shape, device=x.device) if own is None else torch.from_numpy(own.uniform(size=x.shape))
            kept = drawn.to(x.device) >= share
            x = x * kept / (1 - share)
        if outputs == 1:
            return x
        return x, torch.ones(x.shape, dtype=torch.bool, device=x.device) if kept is None else kept

    return compute
