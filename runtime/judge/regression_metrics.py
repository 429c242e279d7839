"""Metrics of outputs that are numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.runtime.judge.chosen_output import pick, real_targets

if TYPE_CHECKING:
    from mopt.runtime.judge.metrics import Cosine, MeanSquaredError

Array = np.ndarray[Any, Any]


class SquaredErrorState:
    """Sums squared errors."""

    def __init__(self, metric: MeanSquaredError) -> None:
        self._metric = metric
        self._total, self._seen = 0.0, 0

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        given = pick(outputs, self._metric.output).astype(np.float64)
        errors = given - real_targets("mse", targets, given.shape)
        self._total += float(np.square(errors).sum())
        self._seen += errors.size

    def compute(self) -> float:
        """Return the mean over all elements."""
        return self._total / self._seen if self._seen else float("nan")


class CosineState:
    """Sums cosines."""

    def __init__(self, metric: Cosine) -> None:
        self._metric = metric
        self._total, self._seen = 0.0, 0

    def update(self, outputs: Mapping[str, Array], targets: Sequence[Any]) -> None:
        """Take a batch."""
        given = pick(outputs, self._metric.output).astype(np.float64)
        wanted = real_targets("cosine", targets, given.shape).reshape(len(given), -1)
        given = given.reshape(len(given), -1)
        lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
        products = (given * wanted).sum(axis=1)
        self._total += float(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).sum())
        self._seen += len(given)

    def compute(self) -> float:
        """Return the mean over samples; a vector of zeros has the cosine 0 with any other."""
        return self._total / self._seen if self._seen else float("nan")
