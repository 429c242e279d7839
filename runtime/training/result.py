"""What became of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

_POINTS = 200
"""Points of a curve in a report."""


@dataclass
class Progress:
    """Where a run stands: everything a resumed run needs beside tensors.

    Attributes:
        step: steps done.
        losses: the loss of each; NaN for a batch that was left out.
        figures: (steps done, figure) of each evaluation.
        best: the best figure, and the steps done by then; None before the first evaluation.
        stale: evaluations since.
        skipped: steps whose batch was left out.
        stopped: why the run ended early, or "".
        seconds: how long it has taken, in all its processes.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    figures: list[tuple[int, float]] = field(default_factory=list)
    best: tuple[int, float] | None = None
    stale: int = 0
    skipped: list[int] = field(default_factory=list)
    stopped: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Result:
    """A finished run. The network holds the weights to keep.

    Attributes:
        progress: what happened.
        total: the steps that were asked for.
        per_epoch: steps of an epoch.
        kept: the number of steps after which the kept weights stood.
        resumed: the step an earlier, interrupted run had reached; None where there was none.
        problem: why checkpoints could not be written, or "".
    """

    progress: Progress
    total: int
    per_epoch: int
    kept: int
    resumed: int | None = None
    problem: str = ""

    def curve(self) -> dict[str, Any]:
        """Return the loss and the monitored figure as JSON data; a long curve as means over equal stretches."""
        losses = self.progress.losses
        width = max(1, math.ceil(len(losses) / _POINTS))
        points = []
        for start in range(0, len(losses), width):
            part = [loss for loss in losses[start : start + width] if math.isfinite(loss)]
            points.append([min(start + width, len(losses)), round(math.fsum(part) / len(part), 7) if part else None])
        figures = [[step, figure if math.isfinite(figure) else None] for step, figure in self.progress.figures]
        return {
            "steps": self.progress.step,
            "steps_per_epoch": self.per_epoch,
            "kept_step": self.kept,
            "loss": points,
            "monitor": figures,
        }
