"""Losses as graph operators."""

from __future__ import annotations

from typing import Any

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(call: Call) -> Compute:
    """Minus the weighted log-probability of each target's class: for each, or their (weighted) mean, or their sum."""
    reduction, ignored = call.attribute("reduction", "mean"), call.attribute("ignore_index")
    return lambda scores, target, weight=None: _loss(scores, target, weight, reduction, ignored)


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(call: Call) -> Compute:
    """The same of scores that are no log-probabilities yet; these are a second output."""
    reduction, ignored, outputs = call.attribute("reduction", "mean"), call.attribute("ignore_index"), call.outputs

    def compute(scores: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> Any:
        logs = torch.log_softmax(scores, 1)
        loss = _loss(logs, target, weight, reduction, ignored)
        return (loss, logs) if outputs > 1 else loss

    return compute


def _loss(
    logs: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, reduction: str, ignored: int | None
) -> torch.Tensor:
    """logs [N, C, ...], target [N, ...] -> [N, ...] or a scalar."""
    target = target.to(torch.int64)
    kept = torch.ones_like(target, dtype=torch.bool) if ignored is None else target != ignored
    # An ignored label need not be a class: it is looked up as the first, and counts nothing.
    classes = torch.where(kept, target, 0)
    share = kept.to(logs.dtype) if weight is None else weight[classes] * kept
    losses = -logs.gather(1, classes.unsqueeze(1)).squeeze(1) * share
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / share.sum()
