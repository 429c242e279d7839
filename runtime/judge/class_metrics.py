"""Metrics of classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.runtime.contract import DataError
from mopt.runtime.judge.chosen_output import class_targets, pick

if TYPE_CHECKING:
    from mopt.runtime.judge.metrics import F1, Accuracy, CrossEntropy

Array = np.ndarray[Any, Any]


class AccuracyState:
    """Counts right answers."""

    def __init__(self, metric: Accuracy) -> None:
        self._metric = metric
        self._right = self._seen = 0

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        scores = pick(outputs, self._metric.output)
        wanted = class_targets("accuracy", targets)
        if self._metric.top == 1:
            right = predicted(scores, len(wanted), self._metric.threshold) == wanted
        else:
            flat = _two_axes(scores, len(wanted))
            if flat.shape[1] < self._metric.top:
                raise DataError(f"`accuracy(top={self._metric.top})`: the output has only {flat.shape[1]} classes")
            best = np.argsort(-flat, axis=1, kind="stable")[:, : self._metric.top]
            right = (best == wanted[:, None]).any(axis=1)
        self._right += int(right.sum())
        self._seen += len(wanted)

    def compute(self) -> float:
        """Return the share of right answers."""
        return self._right / self._seen if self._seen else float("nan")


class F1State:
    """Keeps classes; the figure is scikit-learn's."""

    def __init__(self, metric: F1) -> None:
        self._metric = metric
        self._predicted: list[Array] = []
        self._wanted: list[Array] = []

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        wanted = class_targets("f1", targets)
        self._predicted.append(predicted(pick(outputs, self._metric.output), len(wanted), self._metric.threshold))
        self._wanted.append(wanted)

    def compute(self) -> float:
        """Return the F1 score."""
        from sklearn.metrics import f1_score

        wanted, guessed = np.concatenate(self._wanted), np.concatenate(self._predicted)
        if self._metric.average == "binary" and len(np.union1d(wanted, guessed)) > 2:
            raise DataError("`f1(average=binary)`: there are more than two classes; use `macro`")
        return float(f1_score(wanted, guessed, average=self._metric.average, zero_division=0.0))


class CrossEntropyState:
    """Sums negative log-likelihoods."""

    def __init__(self, metric: CrossEntropy) -> None:
        self._metric = metric
        self._total, self._seen = 0.0, 0

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        wanted = class_targets("cross_entropy", targets)
        scores = _two_axes(pick(outputs, self._metric.output), len(wanted)).astype(np.float64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < scores.shape[1]:
            raise DataError(f"`cross_entropy`: a target is class {wanted.max()}, the output has {scores.shape[1]}")
        rows = np.arange(len(wanted))
        if self._metric.kind == "logits":
            top = scores.max(axis=1, keepdims=True)
            likelihood = scores[rows, wanted] - top[:, 0] - np.log(np.exp(scores - top).sum(axis=1))
        else:
            likelihood = np.log(np.clip(scores[rows, wanted], np.finfo(np.float64).tiny, 1.0))
        self._total -= float(likelihood.sum())
        self._seen += len(wanted)

    def compute(self) -> float:
        """Return the mean, in nats."""
        return self._total / self._seen if self._seen else float("nan")


def predicted(scores: Array, count: int, threshold: float) -> Array:
    """Return the class of each sample: the best of several scores, or one score against a threshold.

    Integer outputs of one value a sample are classes already.
    """
    if scores.dtype.kind in "biu" and scores.size == count:
        return scores.reshape(count).astype(np.int64)
    flat = _two_axes(scores, count)
    if flat.shape[1] == 1:
        return (flat[:, 0] >= threshold).astype(np.int64)
    best: Array = flat.argmax(axis=1)
    return best


def _two_axes(scores: Array, count: int) -> Array:
    """Return scores as [sample, class]; axes of one (a global pool's height and width) are dropped."""
    if scores.ndim and scores.shape[0] == count:
        kept = [size for size in scores.shape[1:] if size != 1]
        if len(kept) <= 1:
            return scores.reshape(count, -1)
    raise DataError(
        f"the output has the shape {list(scores.shape)} for {count} samples; one score for each class is expected: "
        f"[{count}, classes]"
    )
