"""Brings every pipeline to its end: its steps, and the conditions between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mopt.build.artifacts import Emitted
from mopt.build.outcome import Failure, Outcome
from mopt.build.requirements import UnmeasuredError, decide, measures
from mopt.build.rows import Latency, RequirementResult
from mopt.runtime.contract import DataError, RunError, TargetError
from mopt.store.files import StoreError
from mopt.values import LocationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mopt.build.artifacts import Emitter
    from mopt.build.executor import Executor
    from mopt.build.measure import Judge
    from mopt.build.timing import Stopwatch
    from mopt.plan import Plan, PlannedPipeline
    from mopt.recipe import Requirement
    from mopt.runtime.contract import Availability


@dataclass
class PipelineRun:
    """What became of one pipeline. `result` is the snapshot its row is measured on, or None."""

    pipeline: PlannedPipeline
    status: str = "ok"
    base: str | None = None
    result: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    requirements: list[RequirementResult] = field(default_factory=list)
    failure: Failure | None = None


class PipelineRunner:
    """Runs pipelines in order.

    Args:
        plan, executor: what to run, and with what.
        judge, emitters, stopwatch: measure what conditions ask for, on the target that they name or on the first.
        availability: by target, whether it runs on this machine, and why not.
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        judge: Judge,
        emitters: Mapping[str, Emitter],
        stopwatch: Stopwatch,
        availability: Mapping[str, Availability],
    ) -> None:
        self._plan, self._executor, self._judge = plan, executor, judge
        self._emitters, self._stopwatch, self._availability = emitters, stopwatch, availability
        self.runs: dict[str, PipelineRun] = {}

    def run(self, name: str) -> PipelineRun:
        """Bring a pipeline (and those it descends from) to its end."""
        if name not in self.runs:
            self.runs[name] = self._run(self._plan.pipelines[name])
        return self.runs[name]

    def root(self, name: str) -> str | None:
        """Return the snapshot of the model that a pipeline descends from, if it was lowered."""
        return self._executor.outcome(self._plan.chain(self._plan.pipelines[name].result)[0].id).snapshot

    def _run(self, pipeline: PlannedPipeline) -> PipelineRun:
        run = PipelineRun(pipeline)
        if pipeline.parent in self._plan.pipelines:
            parent = self.run(pipeline.parent)
            if parent.status != "ok":
                run.status = "not built"
                cause = "has no result" if parent.status != "ended" else "ended at a requirement"
                place = str(self._plan.recipe.pipelines[pipeline.name].place)
                run.failure = parent.failure or Failure("pass", f"its parent `{parent.pipeline.name}` {cause}", place)
                if parent.status == "ended":
                    run.failure = None
                return run
        base = self._executor.outcome(pipeline.base)
        if base.failure is not None:
            run.status, run.failure = "failed", base.failure
            return run
        run.base = run.result = base.snapshot
        for stop in pipeline.stops:
            if stop.requirement is None:
                outcome = self._executor.outcome(stop.step)
                run.outcomes.append(outcome)
                if outcome.failure is not None:
                    run.status, run.failure, run.result = "failed", outcome.failure, None
                    return run
                run.result = outcome.snapshot
                continue
            try:
                result = self._decide(stop.requirement, run)
            except (DataError, TargetError, RunError, StoreError, LocationError) as error:
                run.failure = Failure.of(error, str(stop.requirement.place))
                run.status, run.result = "failed", None
                return run
            run.requirements.append(result)
            if result.held is False:
                run.status = "ended"
                return run
        return run

    def _decide(self, requirement: Requirement, run: PipelineRun) -> RequirementResult:
        target = requirement.target or next(iter(self._emitters))
        if target not in self._emitters:
            reason = f"this build is not for `{target}`"
            return RequirementResult(requirement.text, None, reason=reason, asked=False)
        emitter, here = self._emitters[target], self._availability[target]
        times: dict[str, Latency] = {}
        if any(measure.name == "latency" for measure in measures(requirement)):
            times = self._time(requirement, run, emitter) if here.can_run else {}

        def value(pipeline: str | None, name: str) -> float:
            key = pipeline or ""
            if name == "latency":
                if key not in times:
                    raise UnmeasuredError(here.reason or "the model does not take the first batch size of `profile`")
                return times[key].median / 1e3
            snapshot, label = self._subject(pipeline, run)
            if name in ("params", "nonzero", "macs"):
                return float(self._judge.cost(snapshot)["parameters" if name == "params" else name])
            emitted = _emit(emitter, snapshot, label)
            if name in ("size", "compressed"):
                return float(emitted.artifact.bytes if name == "size" else emitted.artifact.compressed)
            judged_as = pipeline or run.pipeline.name
            metrics = self._judge.metrics(judged_as, emitted, emitter, can_run=here.can_run).metrics
            if (found := metrics.get(name)) is None:
                raise UnmeasuredError(f"no `evaluate` statement measures `{name}` of `{judged_as}`")
            return found

        return decide(requirement, value)

    def _subject(self, pipeline: str | None, run: PipelineRun) -> tuple[str, str]:
        """Return the snapshot a measure is of, and what to call it: this point, or another pipeline's result."""
        if pipeline is None:
            assert run.result is not None
            return run.result, f"{run.pipeline.name}@{len(run.outcomes)}"
        other = self.run(pipeline)
        if other.result is None:
            raise UnmeasuredError(f"`{pipeline}` has no result")
        return other.result, pipeline

    def _time(self, requirement: Requirement, run: PipelineRun, emitter: Emitter) -> dict[str, Latency]:
        candidates, roots = {}, {}
        for measure in measures(requirement):
            if measure.name == "latency":
                key = measure.pipeline or ""
                candidates[key] = _emit(emitter, *self._subject(measure.pipeline, run))
                root = self.root(measure.pipeline or run.pipeline.name)
                assert root is not None
                roots[key] = root
        found = self._stopwatch.time(emitter, candidates, roots, {})
        for key, error in found.lacking.items():
            if not found.times.get(key):
                raise error
        return {key: next(iter(latencies.values())) for key, latencies in found.times.items() if latencies}


def _emit(emitter: Emitter, snapshot: str, label: str) -> Emitted:
    emitted = emitter.emit(snapshot, label)
    if isinstance(emitted, Failure):
        raise UnmeasuredError(emitted.message)
    return emitted
