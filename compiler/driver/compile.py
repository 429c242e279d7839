"""The main job: check, plan, run, emit, measure, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.build.artifacts import Emitted, Emitter
from mopt.build.executor import Executor
from mopt.build.keys import Keys
from mopt.build.measure import DataAccess, Judge, Judgement
from mopt.build.outcome import Failure
from mopt.build.rows import Row
from mopt.build.timing import Stopwatch, Timed
from mopt.check import CheckResult, check
from mopt.driver.half_rows import half_rows
from mopt.driver.launch import Launch, processes, trains
from mopt.driver.lock import only_one
from mopt.driver.output import Output
from mopt.driver.pipelines import PipelineRun, PipelineRunner
from mopt.driver.targets import Chosen, choose_targets
from mopt.fingerprint import FileHashes
from mopt.grammar import render
from mopt.plan import Plan, make_plan
from mopt.plugin import Registry, default_registry
from mopt.report.results import Results
from mopt.runtime.contract import DataError, RunError, Sizes, TargetError
from mopt.store import Store, default_root
from mopt.values import LocationError

if TYPE_CHECKING:
    from mopt.build.progress import Reporter


class RecipeError(Exception):
    """The recipe, or what was asked of it, is wrong. `result` holds the diagnostics where the checker found it."""

    def __init__(self, message: str, result: CheckResult | None = None) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class CompileOptions:
    """How to compile.

    Attributes:
        targets: names or kinds of targets; none means those the recipe profiles or declares.
        overrides: `param` values by name, as text.
        output: where models and reports go; default `build/RECIPE` below the working folder.
        store: where results are kept; default: see `mopt.store.default_root`.
        only: globs over pipelines; none means all.
        profile: time the artifacts (`auto`: where nothing changed, the last figures are shown again).
    """

    targets: tuple[str, ...] = ()
    overrides: Mapping[str, str] = field(default_factory=dict)
    output: Path | None = None
    store: Path | None = None
    only: tuple[str, ...] = ()
    profile: str = "auto"


def compile_recipe(
    path: Path, options: CompileOptions, reporter: Reporter, registry: Registry | None = None
) -> Results:
    """Compile a recipe.

    Raises:
        RecipeError: the recipe, a parameter or a target's name is wrong; nothing was run.
        TargetError: no target asked for is there (`missing`).
        StoreError: the store or the output folder can't be written.
    """
    registry = registry or default_registry()
    checked = check(path, options.overrides, registry)
    if checked.recipe is None or not checked.ok:
        raise RecipeError(f"the recipe has errors:\n{render(checked.diagnostics)}", checked)
    plan = make_plan(checked.recipe)
    chosen = choose_targets(plan.recipe, options.targets, registry)
    names = _selected(plan, options.only)
    output_folder = options.output or Path("build") / path.stem
    store = Store(options.store or default_root())
    store.sweep()
    launch = Launch() if processes() > 1 and trains(plan) else None
    try:
        with only_one(output_folder, reporter), store.hold():
            output = Output(output_folder, store)
            build = _Build(plan, chosen, store, output, reporter, registry, options, launch.tell if launch else None)
            return build.run(names)
    finally:
        if launch is not None:
            launch.tell(None)
            launch.close()


def _selected(plan: Plan, patterns: tuple[str, ...]) -> tuple[str, ...]:
    from fnmatch import fnmatchcase

    if not patterns:
        return tuple(plan.pipelines)
    found = tuple(
        name
        for name in plan.pipelines
        if any(fnmatchcase(n, p) for p in patterns for n in (name, plan.recipe.pipelines[name].declared))
    )
    if not found:
        raise RecipeError(f"no pipeline matches {', '.join(patterns)}; there are {', '.join(plan.pipelines) or 'none'}")
    return found


class _Build:
    def __init__(
        self,
        plan: Plan,
        chosen: Chosen,
        store: Store,
        output: Output,
        reporter: Reporter,
        registry: Registry,
        options: CompileOptions,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        recipe = plan.recipe
        self._plan, self._chosen, self._store, self._output = plan, chosen, store, output
        self._reporter, self._options, self._registry = reporter, options, registry
        self._hashes = FileHashes(store.root / "hashes.json")
        keys = Keys(recipe, self._hashes)
        self._data = data = DataAccess(recipe)
        self._executor = Executor(plan, store, keys, reporter, data.split, output.logs, announce)
        self._judge = Judge(recipe, store, keys, data, reporter)
        self._stopwatch = Stopwatch(recipe.profile, recipe.seed, store, reporter, fresh=options.profile == "always")
        sizes = Sizes(recipe.profile.batch, recipe.profile.bind)
        self._emitters = {
            declaration.name: Emitter(declaration, sizes, store, keys, self._executor, registry, reporter)
            for declaration in chosen.targets
        }
        self._runner = PipelineRunner(
            plan,
            self._executor,
            self._judge,
            self._emitters,
            self._stopwatch,
            chosen.availability,
        )

    def run(self, names: tuple[str, ...]) -> Results:
        recipe = self._plan.recipe
        try:
            runs = {name: self._runner.run(name) for name in names}
            rows = [row for target in self._emitters for row in self._rows(target, runs)]
        finally:
            self._hashes.save()
        results = Results(
            recipe=recipe.path,
            title=recipe.title,
            rows=tuple(rows),
            goals={name: declaration.goal for name, declaration in recipe.metrics.items()}
            | dict.fromkeys(recipe.losses, "min"),
            steps=self._output.steps(self._plan, self._executor, runs),
            failures=(),
            machine=_machine(self._chosen),
            skipped=self._chosen.skipped,
            synthetic=tuple(name for name, d in recipe.data.items() if type(d.source).synthetic),
            output=str(self._output.folder),
        )
        self._output.write(self._plan, runs, results)
        return results

    def _rows(self, target: str, runs: Mapping[str, PipelineRun]) -> list[Row]:
        emitter, availability = self._emitters[target], self._chosen.availability[target]
        emitted: dict[str, Emitted] = {}
        rows: dict[str, Row] = {}
        for name, run in runs.items():
            rows[name] = row = self._static_row(target, run)
            if run.result is None:
                continue
            artifact = emitter.emit(run.result, name)
            if isinstance(artifact, Failure):
                rows[name] = _with(
                    row, status="unavailable" if artifact.kind == "target" else "failed", failure=artifact
                )
                continue
            emitted[name] = artifact
            rows[name] = self._judged(row, run, artifact, emitter, can_run=availability.can_run)
        bases = self._baselines(emitted)
        timed = Timed({}, {}, {})
        untimed = "" if availability.can_run else availability.reason
        if emitted and availability.can_run and self._options.profile != "never" and self._profiled(target):
            extra, halved = half_rows(
                emitter, emitted, bases, executor=self._executor, registry=self._registry, store=self._store
            )
            roots = {name: root for name in emitted if (root := self._runner.root(name)) is not None}
            roots |= {halved[name]: root for name, root in roots.items() if halved.get(name) in extra}
            bases = halved
            try:
                timed = self._stopwatch.time(emitter, {**extra, **emitted}, roots, bases)
            except (TargetError, RunError) as error:
                if isinstance(error, TargetError) and error.missing:
                    timed = Timed({}, {}, dict.fromkeys(emitted, error))
                else:
                    untimed = str(error)
        for name in emitted:
            times = timed.times.get(name, {})
            rows[name] = _with(
                rows[name],
                latency=times,
                untimed=untimed or timed.refused.get(name, ""),
                notes=(*rows[name].notes, *self._stopwatch.fell_back.get((target, name), ())),
                baseline=bases.get(name, "") if times else "",
                artifact=self._output.publish(target, name, emitted[name]),
                failure=rows[name].failure or self._lacking(name, timed, emitter),
            )
        return [*rows.values(), *self._apps(emitter, emitted, rows, can_run=availability.can_run)]

    def _lacking(self, name: str, timed: Timed, emitter: Emitter) -> Failure | None:
        """Tell that a row has no time because this machine lacks something; the row keeps the rest of its results."""
        if name not in timed.lacking:
            return None
        found = Failure.of(timed.lacking[name], str(emitter.declaration.place))
        failure = replace(found, message=f"not timed: {found.message}")
        hint = f" ({failure.help})" if failure.help else ""
        self._reporter.line(f"error: {failure.where}: `{name}`: {failure.message}{hint}", style="bold red")
        return failure

    def _apps(
        self, emitter: Emitter, emitted: Mapping[str, Emitted], rows: Mapping[str, Row], *, can_run: bool
    ) -> list[Row]:
        recipe = self._plan.recipe
        wanted = {name: app for name, app in recipe.apps.items() if all(part in rows for part in app.parts.values())}
        if not wanted or not can_run:
            return []
        from mopt.build.apps import app_rows

        timed = self._options.profile != "never" and self._profiled(emitter.name)
        try:
            return app_rows(wanted, emitter, emitted, rows, self._judge, self._data, recipe.profile, time_them=timed)
        except (DataError, TargetError, RunError, LocationError) as error:
            place = str(next(iter(wanted.values())).place)
            self._reporter.line(f"error: {place}: {error}", style="bold red")
            failure = Failure.of(error, place)
            return [Row(name, emitter.name, "failed", failure=failure) for name in wanted]

    def _static_row(self, target: str, run: PipelineRun) -> Row:
        cost = self._judge.cost(run.result) if run.result else {}
        notes = [n.message for o in run.outcomes for n in o.notes if n.severity == "warning"]
        return Row(
            pipeline=run.pipeline.name,
            target=target,
            status=run.status,  # type: ignore[arg-type]
            model=run.pipeline.model,
            parent=run.pipeline.parent,
            parameters=cost.get("parameters"),
            nonzero=cost.get("nonzero"),
            macs=cost.get("macs"),
            requirements=tuple(run.requirements),
            notes=tuple(notes),
            failure=run.failure,
        )

    def _judged(self, row: Row, run: PipelineRun, artifact: Emitted, emitter: Emitter, *, can_run: bool) -> Row:
        row = _with(
            row,
            bytes=artifact.artifact.bytes,
            compressed=artifact.artifact.compressed,
            notes=(*row.notes, *artifact.warnings, *artifact.artifact.notes),
        )
        try:
            judgement: Judgement = self._judge.metrics(run.pipeline.name, artifact, emitter, can_run=can_run)
        except (DataError, LocationError) as error:
            failure = Failure.of(error, self._evaluation_place(run.pipeline.name))
        except (TargetError, RunError) as error:
            failure = Failure.of(error, str(emitter.declaration.place))
        else:
            return _with(row, metrics=judgement.metrics, judged_by=judgement.judged_by)
        self._reporter.line(f"error: {failure.where}: {failure.message}", style="bold red")
        return _with(row, status="failed", failure=failure)

    def _evaluation_place(self, pipeline: str) -> str:
        for evaluation in self._judge.evaluations(pipeline):
            return str(self._plan.recipe.data[evaluation.data.name].place)
        return self._plan.recipe.path

    def _baselines(self, emitted: Mapping[str, Emitted]) -> dict[str, str]:
        """Compare each pipeline with the first pipeline of the same model."""
        first: dict[str, str] = {}
        for name in emitted:
            first.setdefault(self._plan.pipelines[name].model, name)
        return {name: first[self._plan.pipelines[name].model] for name in emitted}

    def _profiled(self, target: str) -> bool:
        wanted = self._plan.recipe.profile.targets
        return not wanted or target in wanted


def _with(row: Row, **changes: Any) -> Row:
    return replace(row, **changes)


def _machine(chosen: Chosen) -> dict[str, Any]:
    import os
    import platform

    import mopt
    from mopt.build.timing import machine_identity

    facts: dict[str, Any] = {
        "mopt": mopt.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": machine_identity()["processor"],
        "cores": os.cpu_count(),
    }
    for availability in chosen.availability.values():
        facts.update(availability.versions)
    return facts
