"""Least squares for what a layer's kernel and biases lack, over rows that come in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Real = NDArray[np.float64]

RIDGES: Final = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Weights of the penalty on the change, as shares of the features' mean variance."""


@dataclass(frozen=True)
class Fit:
    """What to add to a kernel [features, outputs] and to its biases [outputs], and what that does to rows held out.

    Attributes:
        kernel, bias: the change; `kernel` is None where only the bias changes.
        before, after: summed squared errors of the outputs.
        energy: summed squares of the wanted outputs about their mean, what errors are relative to.
    """

    kernel: Real | None
    bias: Real
    before: float
    after: float
    energy: float


class Sums:
    """Sums over rows: of features x, of what is missing y, and of their products."""

    def __init__(self, features: int, outputs: int) -> None:
        self.rows = 0
        self.x, self.y = np.zeros(features), np.zeros(outputs)
        self.xx, self.xy = np.zeros((features, features)), np.zeros((features, outputs))
        self.yy = 0.0
        self.wanted, self.wanted_square = np.zeros(outputs), 0.0

    def add(self, x: NDArray[Any], y: NDArray[Any], wanted: NDArray[Any]) -> None:
        """Take in rows: x [rows, features], y and wanted [rows, outputs]."""
        self.rows += len(x)
        self.x += x.sum(axis=0, dtype=np.float64)
        self.y += y.sum(axis=0, dtype=np.float64)
        self.xx += x.T @ x
        self.xy += x.T @ y
        self.yy += float(np.square(y, dtype=np.float64).sum())
        self.wanted += wanted.sum(axis=0, dtype=np.float64)
        self.wanted_square += float(np.square(wanted, dtype=np.float64).sum())

    def merged(self, other: Sums) -> Sums:
        """Return the sums over the rows of both."""
        both = Sums(len(self.x), len(self.y))
        for name in vars(both):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def error(self, kernel: Real | None, bias: Real) -> float:
        """Return Σ|y - x·kernel - bias|² over the rows."""
        error = self.yy - 2 * bias @ self.y + self.rows * bias @ bias
        if kernel is not None:
            error += float(np.sum(kernel * (self.xx @ kernel - 2 * self.xy))) + 2 * bias @ (self.x @ kernel)
        return float(error)

    def ridge(self, shares: Sequence[float]) -> list[tuple[Real, Real]]:
        """Return the kernel and bias that minimise the squared error, penalised by each of the shares."""
        rows = max(self.rows, 1)
        xx = self.xx - np.outer(self.x, self.x) / rows
        xy = self.xy - np.outer(self.x, self.y) / rows
        unit = float(np.trace(xx)) / max(len(xx), 1)
        found = []
        for share in shares if unit > 0 else ():
            kernel: Real = np.asarray(np.linalg.solve(xx + share * unit * np.eye(len(xx)), xy), np.float64)
            found.append((kernel, (self.y - self.x @ kernel) / rows))
        return found


class Regression:
    """Fits on three quarters of the samples, and lets the fourth choose how much to trust the fit.

    A change that does not help on the samples held out is not made: at worst the layer stays as it is.
    """

    def __init__(self, features: int, outputs: int, *, kernel: bool) -> None:
        self._kernel = kernel
        self._parts = (Sums(features if kernel else 0, outputs), Sums(features if kernel else 0, outputs))

    def add(self, x: NDArray[Any], y: NDArray[Any], wanted: NDArray[Any], *, held_out: bool) -> None:
        """Take in rows; of a single sample none can be held out, and the fit is judged on what it was made of."""
        self._parts[held_out].add(x if self._kernel else x[:, :0], y, wanted)

    def fit(self) -> Fit:
        """Return the best change found."""
        made, judge = self._parts
        every = made.merged(judge)
        judge = judge if judge.rows and made.rows else every
        none = np.zeros(len(judge.y))
        before = judge.error(None, none)
        energy = judge.wanted_square - float(judge.wanted @ judge.wanted) / max(judge.rows, 1)
        best: tuple[float, int | None] = (before, None)
        if every.rows:
            best = min(best, (judge.error(None, made.y / max(made.rows, 1)), -1), key=lambda pair: pair[0])
        for index, (kernel, bias) in enumerate(made.ridge(RIDGES) if self._kernel else ()):
            error = judge.error(kernel, bias)
            if error < best[0]:
                best = (error, index)
        after, choice = best
        if choice is None or not np.isfinite(after):
            return Fit(None, none, before, before, energy)
        if choice < 0:
            return Fit(None, every.y / every.rows, before, after, energy)
        ((kernel, bias),) = every.ridge(RIDGES[choice : choice + 1])
        return Fit(kernel, bias, before, max(after, 0.0), energy)
