"""What a build measures of a snapshot: its cost, and its metrics on real data. Each once, kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from mopt.recipe import Evaluate, Recipe
from mopt.runtime.contract import DataError
from mopt.store.files import digest_of
from mopt.values import DataRef

if TYPE_CHECKING:
    from mopt.build.artifacts import Emitted, Emitter
    from mopt.build.keys import Keys
    from mopt.build.progress import Reporter
    from mopt.runtime.contract import Runner, Split
    from mopt.store import Store

ORT = "onnxruntime on the CPU, as the target can't run here"


@dataclass(frozen=True)
class Judgement:
    """Metrics of one artifact; `judged_by` names what ran it where that was not the target itself."""

    metrics: Mapping[str, float | None]
    judged_by: str = ""


class DataAccess:
    """The data sets of a recipe, opened when first asked for."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._open: dict[str, Mapping[str, Split]] = {}

    def split(self, reference: DataRef) -> Split:
        """Return the samples a reference names.

        Raises:
            DataError: the data set can't be opened, or has no such split.
        """
        from mopt.runtime.data.splits import sliced

        declaration = self._recipe.data[reference.name]
        if reference.name not in self._open:
            self._open[reference.name] = declaration.source.splits(self._recipe.seed)
        splits = self._open[reference.name]
        name = reference.split
        if name is None:
            if len(splits) != 1:
                raise DataError(
                    f"`{reference.name}` has the splits {', '.join(splits)}; say which one: `{reference.name}.NAME`"
                )
            name = next(iter(splits))
        if name not in splits:
            raise DataError(f"data `{reference.name}` has no split `{name}`; it has {', '.join(splits) or 'none'}")
        return sliced(splits[name], reference.start, reference.stop)


class Judge:
    """Measures cost and metrics.

    Args:
        recipe: the recipe, with its `evaluate` statements.
        store, keys, data, reporter: the build it belongs to.
    """

    def __init__(self, recipe: Recipe, store: Store, keys: Keys, data: DataAccess, reporter: Reporter) -> None:
        self._recipe, self._store, self._keys = recipe, store, keys
        self._data, self._reporter = data, reporter

    def cost(self, snapshot: str) -> dict[str, int]:
        """Return `parameters`, `nonzero` and `macs` of a snapshot, dynamic dimensions bound by `profile(bind=…)`."""
        import mopt

        bindings = dict(self._recipe.profile.bind)
        key = digest_of([mopt.__version__, snapshot, bindings])
        known = self._store.record("cost", key)
        if known is None:
            from mopt.analysis.cost import cost

            module = self._store.get_module(snapshot)
            found = cost(module, bindings)
            module.let_go()
            known = {"parameters": found.parameters, "nonzero": found.nonzero, "macs": found.macs}
            self._store.put_record("cost", key, known)
        return known

    def evaluations(self, pipeline: str) -> tuple[Evaluate, ...]:
        """Return the `evaluate` statements that judge a pipeline."""
        names = {pipeline}
        if pipeline in self._recipe.pipelines:
            declaration = self._recipe.pipelines[pipeline]
            names.add(declaration.declared)
            while declaration.parent in self._recipe.pipelines:
                declaration = self._recipe.pipelines[declaration.parent]
            names.add(declaration.parent)
        return tuple(
            evaluation
            for evaluation in self._recipe.evaluations
            if not evaluation.pipelines
            or any(fnmatchcase(name, pattern) for name in names for pattern in evaluation.pipelines)
        )

    def metrics(self, pipeline: str, emitted: Emitted, emitter: Emitter, *, can_run: bool) -> Judgement:
        """Evaluate an artifact on the recipe's data; with onnxruntime where the target itself can't run here.

        Raises:
            DataError: the data does not fit the model.
            TargetError: neither can run it.
        """
        values: dict[str, float | None] = {}
        runner: Runner | None = None
        for evaluation in self.evaluations(pipeline):
            keys = {name: self._metric_key(emitted, evaluation, name, can_run) for name in evaluation.metrics}
            records = {name: self._store.record("metrics", key) for name, key in keys.items()}
            missing = [name for name, record in records.items() if record is None]
            values.update({name: record["value"] for name, record in records.items() if record is not None})
            if not missing:
                continue
            if runner is None:
                runner = emitter.open(emitted) if can_run else self._reference(emitted)
            found = self._evaluate(runner, emitted, evaluation, missing, f"{pipeline} on {emitter.name}")
            for name, value in found.items():
                self._store.put_record("metrics", keys[name], {"value": value})
            values.update(found)
        ordered = {name: values[name] for e in self.evaluations(pipeline) for name in e.metrics if name in values}
        return Judgement(ordered, "" if can_run or not ordered else ORT)

    def app_evaluations(self, name: str) -> tuple[Evaluate, ...]:
        """Return the `evaluate` statements that name an app."""
        return tuple(
            evaluation
            for evaluation in self._recipe.evaluations
            if any(fnmatchcase(name, pattern) for pattern in evaluation.pipelines)
        )

    def app_metrics(self, name: str, runner: Runner, key: str) -> dict[str, float | None]:
        """Evaluate an app, on the data of the statements that name it."""
        values: dict[str, float | None] = {}
        for evaluation in self.app_evaluations(name):
            values.update(self._run_metrics(runner, evaluation, list(evaluation.metrics), f"app {name}", key))
        return values

    def _run_metrics(
        self, runner: Runner, evaluation: Evaluate, names: list[str], text: str, key: str
    ) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for name in names:
            record_key = digest_of([key, self._keys.data(evaluation.data), self._keys.metric(name)])
            record = self._store.record("metrics", record_key)
            if record is None:
                record = {"value": self._compute(runner, None, evaluation, [name], text)[name]}
                self._store.put_record("metrics", record_key, record)
            found[name] = record["value"]
        return found

    def _metric_key(self, emitted: Emitted, evaluation: Evaluate, name: str, can_run: bool) -> str:
        subject = emitted.key if can_run else ["ort", emitted.snapshot]
        return digest_of([subject, self._keys.data(evaluation.data), self._keys.metric(name), evaluation.batch])

    def _reference(self, emitted: Emitted) -> Runner:
        from mopt.runtime.reference import reference

        return reference(self._store.get_module(emitted.snapshot))

    def _evaluate(
        self, runner: Runner, emitted: Emitted, evaluation: Evaluate, names: list[str], text: str
    ) -> dict[str, float | None]:
        module = self._store.get_module(emitted.snapshot)
        return self._compute(runner, module, evaluation, names, text)

    def _compute(
        self, runner: Runner, module: Any, evaluation: Evaluate, names: list[str], text: str
    ) -> dict[str, float | None]:
        from mopt.runtime.judge.evaluate import evaluate

        split = self._data.split(evaluation.data)
        metrics = {name: self._recipe.metrics[name].metric for name in names if name in self._recipe.metrics}
        losses = {name: self._recipe.losses[name].loss for name in names if name not in metrics}
        with self._reporter.activity(f"evaluating {text}", len(split)) as activity:
            found = evaluate(
                runner,
                split,
                metrics,
                evaluation.batch,
                losses=losses,
                module=module,
                advance=activity.advance,
            )
        return {name: _finite(found[name]) for name in names}


def _finite(value: float) -> float | None:
    """A metric that is no number is reported as not measured, as JSON has none."""
    value = float(value)
    return value if value == value and value not in (float("inf"), float("-inf")) else None
