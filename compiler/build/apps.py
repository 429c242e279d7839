"""`app`: one program that runs several compressed models, judged and timed end to end as a row of its own.

The recipe's class is made with a runner for each part and the other options by keyword; it is then called with one
sample after another (a mapping of arrays without the batch axis, `target` left out) and returns a mapping of outputs.
A runner is called with a mapping of input arrays, batch axis included, and returns a mapping of output arrays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mopt.build.rows import Latency, Row
from mopt.fingerprint import fingerprint_files
from mopt.plugin import canonical
from mopt.runtime.contract import DataError, RunError
from mopt.store.files import digest_of

if TYPE_CHECKING:
    from mopt.build.artifacts import Emitted, Emitter
    from mopt.build.measure import DataAccess, Judge
    from mopt.recipe import AppDecl, Evaluate, ProfileOptions

TIMED_SAMPLES = 8
"""Samples in one timed round: how long a page takes depends on what is on it."""


class AppRunner:
    """An app as a runner over batches: its samples are run one by one.

    Args:
        declaration: the app.
        parts: for each part, what runs it.
    """

    def __init__(self, declaration: AppDecl, parts: Mapping[str, Callable[..., Any]]) -> None:
        from mopt.runtime.user_code import call, load

        self._program = declaration.program
        self._app = call(self._program, load(self._program), {**parts, **declaration.options})

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run every sample of a batch; outputs are stacked where they are of one shape, else listed.

        Raises:
            RunError: the app returned something other than a mapping of outputs.
        """
        size = len(next(iter(feeds.values())))
        results = [self.sample({name: array[index] for name, array in feeds.items()}) for index in range(size)]
        return {name: _stack([result[name] for result in results]) for name in results[0]}

    def sample(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run one sample."""
        from mopt.runtime.user_code import running

        with running(self._program, "on a sample"):
            result = self._app(sample)
        if not isinstance(result, Mapping) or not result:
            raise RunError(f"`{self._program}` returned {type(result).__name__}; a mapping of outputs is expected")
        return result


class _SampleLoop:
    """Runs the same samples at every call, for timing."""

    def __init__(self, app: AppRunner, samples: Sequence[Mapping[str, Any]]) -> None:
        self._app, self._samples = app, samples

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        del feeds
        for sample in self._samples:
            self._app.sample(sample)
        return {}


def app_rows(
    declarations: Mapping[str, AppDecl],
    emitter: Emitter,
    emitted: Mapping[str, Emitted],
    rows: Mapping[str, Row],
    judge: Judge,
    data: DataAccess,
    options: ProfileOptions,
    *,
    time_them: bool,
) -> list[Row]:
    """Build, judge and time the apps on one target.

    Args:
        declarations: the apps of the recipe.
        emitter: the target; it must be able to run here.
        emitted: artifacts by pipeline.
        rows: the pipelines' rows on this target, for sizes and counts.
        judge, data, options: of the build.
        time_them: take times.

    Raises:
        DataError: the app's Python fails, or its data does not fit.
    """
    from mopt.runtime.profiler import profile

    found: dict[str, Row] = {}
    loops: dict[str, _SampleLoop] = {}
    for name, declaration in declarations.items():
        missing = [part for part in declaration.parts.values() if part not in emitted]
        if missing:
            found[name] = Row(name, emitter.name, "not built", notes=(f"no result of {', '.join(missing)}",))
            continue
        parts = {part: emitter.open(emitted[pipeline]).run for part, pipeline in declaration.parts.items()}
        runner = AppRunner(declaration, parts)
        row = _summed(name, emitter.name, [rows[pipeline] for pipeline in declaration.parts.values()])
        found[name] = replace(row, metrics=judge.app_metrics(name, runner, _key(declaration, emitted)))
        if time_them and (evaluation := _evaluation(judge, name)) is not None:
            split = data.split(evaluation.data)
            chosen = [
                {input_name: array for input_name, array in sample.items() if input_name != "target"}
                for sample in itertools.islice(split, TIMED_SAMPLES)
            ]
            if not chosen:
                raise DataError(f"data `{evaluation.data}` is empty")
            loops[name] = _SampleLoop(runner, chosen)
    if loops:
        base = next(iter(loops))
        feeds: dict[str, dict[str, Any]] = {name: {} for name in loops}
        timed = profile(
            loops,
            feeds,
            runs=options.runs,
            warmup=options.warmup,
            precision=options.precision,
            seconds=options.seconds,
            baselines=base,
        )
        for name, timing in timed.items():
            count = len(loops[name]._samples)
            ratio = timing.ratio
            latency = Latency(
                timing.median * 1e3 / count,
                timing.low * 1e3 / count,
                timing.high * 1e3 / count,
                ratio.value if ratio else None,
                ratio.low if ratio else None,
                ratio.high if ratio else None,
                ratio.verdict if ratio else None,
            )
            found[name] = replace(found[name], latency={1: latency}, baseline=base)
    return list(found.values())


def _key(declaration: AppDecl, emitted: Mapping[str, Emitted]) -> str:
    """Digest what decides an app's outputs: its code with what it imports, its settings, its parts."""
    return digest_of(
        [
            fingerprint_files(declaration.program),
            declaration.program.attribute,
            canonical(declaration.options),
            {part: emitted[pipeline].key for part, pipeline in declaration.parts.items()},
        ]
    )


def _evaluation(judge: Judge, name: str) -> Evaluate | None:
    return next(iter(judge.app_evaluations(name)), None)


def _summed(name: str, target: str, parts: Sequence[Row]) -> Row:
    def total(field: str) -> int | None:
        values = [getattr(part, field) for part in parts]
        return None if any(value is None for value in values) else sum(values)

    # MACs are left out: how often a part runs depends on the data.
    return Row(
        pipeline=name,
        target=target,
        status="ok",
        parameters=total("parameters"),
        nonzero=total("nonzero"),
        bytes=total("bytes"),
        compressed=total("compressed"),
    )


def _stack(values: list[Any]) -> Any:
    import numpy as np

    arrays = [np.asarray(value) for value in values]
    if len({(array.shape, array.dtype.kind) for array in arrays}) == 1 and arrays[0].dtype.kind not in "OUS":
        return np.stack(arrays)
    stacked = np.empty(len(arrays), dtype=object)
    for index, value in enumerate(values):
        stacked[index] = value
    return stacked
