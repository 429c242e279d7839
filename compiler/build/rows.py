"""The results table as data: one row for each pipeline and target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mopt.build.outcome import Failure


@dataclass(frozen=True)
class Latency:
    """Time of one batch in milliseconds: the median, a confidence interval of it, and the ratio to the baseline.

    `ratio` is time over the baseline's time (below 1 is faster), from paired rounds, with its own interval;
    `verdict` follows from that interval. None on the baseline's own row.
    """

    median: float
    low: float
    high: float
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    verdict: Literal["faster", "slower", "no difference"] | None = None


@dataclass(frozen=True)
class RequirementResult:
    """A condition and what was measured.

    `held` is None where it could not be measured here, or was not `asked`, since the build is not for the target that
    it is about; `reason` says why.
    """

    text: str
    held: bool | None
    left: float | None = None
    right: float | None = None
    reason: str = ""
    asked: bool = True


@dataclass(frozen=True)
class Row:
    """One line of the results.

    Attributes:
        status: `ok`; `ended` (a requirement failed: the figures are of that point); `failed`; `not built` (its
            parent has no result); `unavailable` (the target is not there).
        parameters, nonzero, macs: of the graph; MACs at the sizes in `bindings`.
        bytes, compressed: of the artifact.
        latency: by batch size; absent sizes were not timed, and `untimed` says why.
        metrics: by name; None where not measured. `judged_by` says what ran the model for them.
        baseline: the pipeline that latency ratios refer to.
    """

    pipeline: str
    target: str
    status: Literal["ok", "ended", "failed", "not built", "unavailable"]
    model: str = ""
    parent: str = ""
    parameters: int | None = None
    nonzero: int | None = None
    macs: int | None = None
    bytes: int | None = None
    compressed: int | None = None
    latency: Mapping[int, Latency] = field(default_factory=dict)
    untimed: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    judged_by: str = ""
    requirements: tuple[RequirementResult, ...] = ()
    baseline: str = ""
    artifact: str = ""
    notes: tuple[str, ...] = ()
    failure: Failure | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as JSON data."""
        data = asdict(self)
        data["latency"] = {str(batch): asdict(latency) for batch, latency in self.latency.items()}
        return data
