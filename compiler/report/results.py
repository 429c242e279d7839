"""`Results`: everything a compile found out, ready to be rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mopt.build.outcome import EXIT_FAILED, EXIT_REQUIREMENT, EXIT_TARGET, Failure
from mopt.build.rows import Row

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StepReport:
    """One step of a pipeline, for the report. `figures` are the numbers behind its notes (a loss curve)."""

    label: str
    text: str
    seconds: float
    cached: bool
    modified: bool
    drift: Mapping[str, Any] | None
    diff: str
    notes: tuple[str, ...]
    failure: Failure | None = None
    figures: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Results:
    """The outcome of `mopt compile`.

    Attributes:
        recipe, title: what was compiled.
        rows: the table.
        goals: for each metric, `min` or `max`.
        steps: for each pipeline, its own steps.
        failures: what failed outside any row (a model that could not be lowered).
        machine: hardware, system and versions the figures were taken on.
        skipped: targets left out, with the reason.
        synthetic: names of data sets that are declared as made up.
        output: the folder that holds the models and reports.
    """

    recipe: str
    title: str | None
    rows: tuple[Row, ...]
    goals: Mapping[str, str]
    steps: Mapping[str, tuple[StepReport, ...]]
    failures: tuple[Failure, ...]
    machine: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    synthetic: tuple[str, ...] = ()
    output: str = ""

    @property
    def exit_status(self) -> int:
        """0, or the most severe of: a bug, a failed pass or source, a missing target, a failed requirement."""
        found = {failure.exit_status for failure in self.failures}
        for row in self.rows:
            if row.failure is not None:
                found.add(row.failure.exit_status)
            if any(result.held is False for result in row.requirements):
                found.add(EXIT_REQUIREMENT)
            if any(result.held is None and result.asked for result in row.requirements):
                found.add(EXIT_TARGET)
        for status in (70, EXIT_FAILED, EXIT_TARGET, EXIT_REQUIREMENT):
            if status in found:
                return status
        return 0

    def to_json(self) -> dict[str, Any]:
        """Return the results as JSON data."""
        from dataclasses import asdict

        return {
            "schema": SCHEMA_VERSION,
            "recipe": self.recipe,
            "title": self.title,
            "exit_status": self.exit_status,
            "machine": dict(self.machine),
            "goals": dict(self.goals),
            "rows": [row.to_json() for row in self.rows],
            "steps": {name: [asdict(step) for step in steps] for name, steps in self.steps.items()},
            "failures": [asdict(failure) for failure in self.failures],
            "skipped": dict(self.skipped),
            "synthetic_data": list(self.synthetic),
            "output": self.output,
        }
