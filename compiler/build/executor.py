"""Runs the steps of a plan: each once, from the store where it is there, checked after it ran."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.build.context import StepContext
from mopt.build.contracts import ContractError, check_interface, check_promises, check_valid, inherited
from mopt.build.grids import check_grids
from mopt.build.keys import Keys
from mopt.build.outcome import Failure, Outcome, promise_record
from mopt.passes.contract import Note, PassError
from mopt.plan import Plan, PlanStep
from mopt.plan.references import model_references
from mopt.plan.render import call_text
from mopt.runtime.contract import DataError, SourceError
from mopt.store.files import StoreError, write_atomically
from mopt.values import LocationError

if TYPE_CHECKING:
    from mopt.build.progress import Reporter
    from mopt.ir import Module
    from mopt.runtime.contract import Split
    from mopt.store import Store
    from mopt.values import DataRef, ModelRef


_ROUNDING = 1e-6
"""Some steps of float32 at one: what another order of the same additions may do to a bounded output."""


class Executor:
    """Brings steps of one plan to their results.

    Args:
        plan: the plan.
        store: where results are kept and found.
        keys: cache keys of the plan's recipe.
        reporter: where progress goes.
        open_split: opens data of the recipe.
        logs: folder for the tracebacks of unexpected errors.
        announce: called with the id of a step that trains before it runs (other processes may have to join it).
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        keys: Keys,
        reporter: Reporter,
        open_split: Callable[[DataRef], Split],
        logs: Path,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        self._announce = announce
        self._plan, self._store, self._keys = plan, store, keys
        self._reporter, self._open_split, self._logs = reporter, open_split, logs
        self._outcomes: dict[str, Outcome] = {}
        self._meter: Any = None

    def outcome(self, step_id: str) -> Outcome:
        """Return the result of a step, after those it needs; a step that failed stays failed."""
        for step in self._plan.chain(step_id):
            if step.id not in self._outcomes:
                self._outcomes[step.id] = self._reach(step)
            if self._outcomes[step.id].failure is not None:
                return self._outcomes[step.id]
        return self._outcomes[step_id]

    def cached(self) -> dict[str, bool]:
        """Say for each step whether its result is in the store. Runs nothing."""
        known: dict[str, str | None] = {}
        for step in self._plan.steps.values():
            key = self._key(step, known)
            record = self._store.record("steps", key) if key else None
            present = record is not None and self._store.has_module(record["snapshot"])
            known[step.id] = record["snapshot"] if present and record else None
        return {step: snapshot is not None for step, snapshot in known.items()}

    def load(self, name: str) -> Module:
        """Return the module of a declared model or an earlier pipeline.

        Raises:
            PassError: it failed.
        """
        outcome = self.outcome(self._step_of(name))
        if outcome.snapshot is None:
            raise PassError(f"`{name}` is needed here and has no result")
        return self._store.get_module(outcome.snapshot)

    def apply(self, operation: Any, snapshot: str, label: str) -> Outcome:
        """Run a pass that a target asked for (it is in no plan) on a snapshot, cached like any other step."""
        place = next(iter(self._plan.steps.values())).place
        step = PlanStep(f"{snapshot}/{call_text(operation)}", None, None, operation, label, place)
        return self._run_pass(step, operation, snapshot, (), root=snapshot)

    def join(self, step_id: str) -> None:
        """Run the pass of a step beside another process, which has brought its parent to the store and says what
        becomes of the step."""
        step = self._plan.steps[step_id]
        operation, before = step.operation, self.outcome(step.parent or "")
        assert operation is not None and before.snapshot is not None
        models = {name: self.outcome(self._step_of(name)).snapshot or "" for name in model_references(operation)}
        key = self._keys.step(
            operation, before.snapshot, models, [promise_record(promise) for promise in before.promises]
        )
        with self._store.scratch() as scratch:
            context = self._context(scratch, key, inherited(operation, before.promises))
            # The other process fails alike, and tells.
            with contextlib.suppress(PassError, DataError, LocationError):
                operation.run(self._store.get_module(before.snapshot), context)

    # -- one step

    def _reach(self, step: PlanStep) -> Outcome:
        try:
            if step.model is not None:
                return self._lower(step)
            assert step.parent is not None and step.operation is not None
            parent = self._outcomes[step.parent]
            assert parent.snapshot is not None
            root = self._outcomes[self._plan.chain(step.id)[0].id].snapshot
            assert root is not None
            return self._run_pass(step, step.operation, parent.snapshot, parent.promises, root=root)
        except StoreError as error:
            return self._failed(step, "storage", str(error))

    def _key(self, step: PlanStep, snapshots: dict[str, str | None]) -> str | None:
        """Return a step's key, or None where a step it needs has no result yet."""
        if step.model is not None:
            return self._keys.source(step.model.source)
        assert step.parent is not None
        parent = snapshots.get(step.parent)
        models = {name: snapshots.get(self._step_of(name)) for name in model_references(step.operation)}
        if parent is None or None in models.values():
            return None
        promises = self._recorded_promises(step.parent)
        return self._keys.step(step.operation, parent, {n: s for n, s in models.items() if s is not None}, promises)

    def _recorded_promises(self, parent: str) -> Any:
        if parent in self._outcomes:
            return self._outcomes[parent].to_record()["promises"]
        snapshots: dict[str, str | None] = {}
        promises: Any = []
        for step in self._plan.chain(parent):
            key = self._key(step, snapshots)
            record = self._store.record("steps", key) if key else None
            snapshots[step.id] = record["snapshot"] if record else None
            promises = record["promises"] if record else []
        return promises

    def _recall(self, step: PlanStep, key: str) -> Outcome | None:
        record = self._store.record("steps", key)
        if record is None or not self._store.has_module(record["snapshot"]):
            return None
        return Outcome.from_record(step.id, record)

    def _lower(self, step: PlanStep) -> Outcome:
        assert step.model is not None
        source = step.model.source
        text = f"{step.model.name} = {call_text(source)}"
        try:
            key = self._keys.source(source)
            if known := self._recall(step, key):
                return known
            started = time.perf_counter()
            with self._reporter.activity(f"lowering {text}"), self._store.scratch() as scratch:
                result = source.load(scratch, self._plan.recipe.seed)
                check_valid(result.module)
                digest = self._store.put_module(result.module)
                result.module.let_go()
        except (SourceError, LocationError) as error:
            return self._failed(step, "source", str(error))
        except ContractError as error:
            return self._failed(step, "source", f"the lowered model is not valid: {error}")
        except (KeyboardInterrupt, StoreError):
            raise
        except Exception as error:  # noqa: BLE001  (anything else is a bug, reported as one)
            return self._unexpected(step, error)
        notes = tuple(Note(text) for text in result.notes)
        outcome = Outcome(step.id, digest, seconds=time.perf_counter() - started, notes=notes)
        self._store.put_record("steps", key, outcome.to_record())
        self._reporter.line(f"  {text}  {outcome.seconds:.2f} s")
        return outcome

    def _run_pass(
        self, step: PlanStep, operation: Any, parent: str, promises: tuple[Any, ...], *, root: str
    ) -> Outcome:
        text = f"{step.label} {call_text(operation)}"
        try:
            models = {}
            for name in model_references(operation):
                needed = self.outcome(self._step_of(name))
                if needed.snapshot is None:
                    return self._failed(step, "pass", f"it needs `{name}`, which has no result")
                models[name] = needed.snapshot
            recorded = [promise_record(promise) for promise in promises]
            key = self._keys.step(operation, parent, models, recorded)
            if known := self._recall(step, key):
                return known
            started = time.perf_counter()
            with self._reporter.activity(text), self._store.scratch() as scratch:
                outcome = self._run_and_check(step, operation, parent, promises, root, scratch, key)
        except PassError as error:
            where = f" (node `{error.node}`)" if error.node else ""
            return self._failed(step, "pass", f"{error}{where}", error.help or "")
        except ContractError as error:
            return self._failed(step, "contract", str(error), "the graph before the step is kept; see `mopt diff`")
        except (DataError, LocationError) as error:
            return self._failed(step, "data", str(error))
        except (KeyboardInterrupt, StoreError):
            raise
        except Exception as error:  # noqa: BLE001  (anything else is a bug, reported as one)
            return self._unexpected(step, error)
        outcome = Outcome(**{**outcome.__dict__, "seconds": time.perf_counter() - started})
        self._store.put_record("steps", key, outcome.to_record())
        self._store.drop_checkpoints(key)
        self._reporter.line(f"  {text}  {outcome.seconds:.2f} s  {_drift_text(outcome.drift)}".rstrip())
        for note in outcome.notes:
            if note.severity == "warning":
                self._reporter.line(f"    note: {note.message}", style="yellow")
        return outcome

    def _run_and_check(
        self,
        step: PlanStep,
        operation: Any,
        parent: str,
        promises: tuple[Any, ...],
        root: str,
        scratch: Path,
        key: str,
    ) -> Outcome:
        from mopt.build.drift import DriftMeter

        held = inherited(operation, promises)
        context = self._context(scratch, key, held)
        if operation.trains and self._announce is not None:
            self._announce(step.id)
        result = operation.run(self._store.get_module(parent), context)
        after = result.module
        if not result.modified:
            # Nothing changed: the snapshot before is the snapshot after, bit for bit.
            return Outcome(step.id, parent, modified=False, notes=result.notes, promises=held)
        before = self._store.get_module(parent)
        check_valid(after)
        check_interface(
            before, after, dtypes_may_change=operation.dtypes_may_change, sizes_may_be_fixed=operation.specialises
        )
        check_promises(after, held)
        if operation.holds_grids:
            check_grids(before, after)
        given = operation.promises(before, after)
        check_promises(after, given)
        digest = self._store.put_module(after)
        before.let_go()
        after.let_go()
        if self._meter is None:
            self._meter = DriftMeter(self._plan.recipe.seed)
        if operation.incomparable:
            drift = {"unmeasured": operation.incomparable}
        else:
            drift = self._meter.measure((root, self._store.get_module(root)), (parent, before), (digest, after))
        if drift.get("broken") or drift.get("problem"):
            raise ContractError(drift.get("problem") or drift["unmeasured"])
        tolerance = operation.equivalence
        if tolerance is not None and "max_rel" in drift and not _within(drift, tolerance):
            raise ContractError(
                f"it promises equal outputs within {tolerance:g} relative; output `{drift['worst']}` moved by "
                f"{drift['max_rel']} at sizes {drift['sizes'] or 'as declared'}"
            )
        return Outcome(step.id, digest, notes=result.notes, drift=drift, promises=(*held, *given))

    def _context(self, scratch: Path, key: str, promises: tuple[Any, ...]) -> StepContext:
        recipe = self._plan.recipe
        return StepContext(
            seed=recipe.seed,
            bindings=recipe.profile.bind,
            scratch=scratch,
            reporter=self._reporter,
            open_split=self._open_split,
            load_model=self.load,
            recorded_at=self._recorded_at,
            recipe=recipe,
            checkpoints=self._store.checkpoints(key),
            promises=promises,
        )

    def _recorded_at(self, model: ModelRef, data: DataRef) -> Path:
        snapshot = self.outcome(self._step_of(model.name)).snapshot
        return self._store.recordings(self._keys.recording(snapshot or "", data))

    # -- failures

    def _failed(self, step: PlanStep, kind: Any, message: str, help: str = "") -> Outcome:
        failure = Failure(kind, f"{step.name}: {message}", str(step.place), help)
        self._say(failure)
        return Outcome(step.id, None, failure=failure)

    def _unexpected(self, step: PlanStep, error: Exception) -> Outcome:
        path = self._logs / f"{step.label.replace('/', '_')}.traceback.txt"
        write_atomically(path, "".join(traceback.format_exception(error)).encode())
        lines = (str(error).strip() or type(error).__name__).splitlines()
        # An error from another process carries its traceback: what happened stands in the last line.
        first = lines[-1] if lines[0].startswith("Traceback") else lines[0]
        failure = Failure(
            "bug",
            f"{step.name}: unexpected {type(error).__name__}: {first[:300]}",
            str(step.place),
            "this is a bug in mopt or in a plug-in; please report it with the traceback file and the recipe",
            str(path),
        )
        self._say(failure)
        return Outcome(step.id, None, failure=failure)

    def _say(self, failure: Failure) -> None:
        self._reporter.line(f"error: {failure.where}: {failure.message}", style="bold red")
        if failure.help:
            self._reporter.line(f"  help: {failure.help}")
        if failure.details:
            self._reporter.line(f"  traceback: {failure.details}")

    def _step_of(self, name: str) -> str:
        if name in self._plan.pipelines:
            return self._plan.pipelines[name].result
        for step in self._plan.steps.values():
            if step.model is not None and step.model.name == name:
                return step.id
        raise PassError(f"no pipeline or model `{name}`")


def _within(drift: dict[str, Any], tolerance: float) -> bool:
    """Say whether outputs are equal: relative to their range, or to the rounding of values near one.

    A sigmoid of noise may range over a millionth, where one step of float32 is a hundredth of the range.
    """
    return any(
        isinstance(drift[figure], float) and drift[figure] <= bound
        for figure, bound in (("max_rel", tolerance), ("max_abs", _ROUNDING))
    )


def _drift_text(drift: dict[str, Any] | None) -> str:
    if not drift:
        return ""
    if "unmeasured" in drift:
        return f"drift not measured ({drift['unmeasured']})"
    value = drift["max_rel"]
    return f"drift {value:.1e}" if isinstance(value, float) else f"drift {value}"
