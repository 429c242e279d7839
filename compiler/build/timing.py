"""Timing all artifacts of a target against each other, and remembering it while none of them changes."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mopt.build.rows import Latency
from mopt.runtime.contract import RunError, TargetError
from mopt.store.files import digest_of

if TYPE_CHECKING:
    from mopt.build.artifacts import Emitted, Emitter
    from mopt.build.progress import Reporter
    from mopt.ir import Module
    from mopt.recipe import ProfileOptions
    from mopt.store import Store


SETTLE = 0.5
"""Seconds that warming up may go on beyond the rounds asked for, while a candidate still gets faster."""


@dataclass(frozen=True)
class Timed:
    """What timing some rows gave.

    Attributes:
        times: for each row, latency by batch size, without the sizes that a model's own batch excludes.
        refused: for each row that did not run at some size, why.
        lacking: for each row that its target refuses to open, or that this machine lacks something for (memory of the
            device, say), the error. Timings with such a row are not remembered: the same command tries again.
    """

    times: Mapping[str, Mapping[int, Latency]]
    refused: Mapping[str, str]
    lacking: Mapping[str, TargetError]


class Stopwatch:
    """Times artifacts in interleaved rounds.

    Args:
        options: the recipe's `profile(…)`.
        seed: seed of the inputs.
        store, reporter: the build it belongs to.
        fresh: time again even where nothing changed.
    """

    def __init__(
        self, options: ProfileOptions, seed: int, store: Store, reporter: Reporter, *, fresh: bool = False
    ) -> None:
        self._options, self._seed, self._store, self._reporter = options, seed, store, reporter
        self._fresh = fresh
        self.fell_back: dict[tuple[str, str], tuple[str, ...]] = {}
        """By target and row, which nodes another provider runs than the one asked for."""

    def time(
        self,
        emitter: Emitter,
        candidates: Mapping[str, Emitted],
        roots: Mapping[str, str],
        baselines: Mapping[str, str],
    ) -> Timed:
        """Time candidates, one session each, all rounds interleaved.

        Args:
            emitter: their target.
            candidates: artifacts by row name.
            roots: for each, the snapshot of its source model, which decides the inputs.
            baselines: for each, the row its ratio refers to.

        Raises:
            TargetError: an artifact can't be opened.
        """
        key = digest_of(
            [
                sorted((name, emitted.key, baselines.get(name, "")) for name, emitted in candidates.items()),
                asdict(self._options) | {"targets": []},
                machine_identity(),
            ]
        )
        known = None if self._fresh else self._store.record("timings", key)
        lacking: dict[str, TargetError] = {}
        if known is None:
            known, lacking = self._measure(emitter, candidates, roots, baselines)
            if not lacking:
                self._store.put_record("timings", key, known)
        self.fell_back |= {(emitter.name, name): (told,) for name, told in known.get("fell_back", {}).items()}
        times = {
            name: {int(batch): Latency(**latency) for batch, latency in known["times"].get(name, {}).items()}
            for name in candidates
        }
        return Timed(times, dict(known["refused"]), lacking)

    def _measure(
        self,
        emitter: Emitter,
        candidates: Mapping[str, Emitted],
        roots: Mapping[str, str],
        baselines: Mapping[str, str],
    ) -> tuple[dict[str, Any], dict[str, TargetError]]:
        from mopt.runtime.profiler import pinned, profile

        refused: dict[str, str] = {}
        lacking: dict[str, TargetError] = {}
        fell_back: dict[str, str] = {}
        found: dict[str, dict[str, Any]] = {name: {} for name in candidates}
        modules = {snapshot: self._store.get_module(snapshot) for snapshot in dict.fromkeys(roots.values())}
        target = emitter.declaration.target
        with contextlib.ExitStack() as stack:
            if not target.runs_on_gpu():
                stack.enter_context(pinned(getattr(target, "threads", 1)))
            runners = {}
            for name, emitted in candidates.items():
                try:
                    runner = emitter.open(emitted)
                except TargetError as error:  # the others are timed all the same
                    lacking[name] = error
                    continue
                close = getattr(runner, "close", None)
                if callable(close):
                    stack.callback(close)
                runners[name] = runner
                placement = getattr(runner, "placement", None)
                if placement is not None and placement.elsewhere:
                    fell_back[name] = placement.told()
            for batch in self._options.batch:
                feeds = {}
                for name, emitted in candidates.items():
                    if name not in runners:
                        continue
                    try:
                        arrays = batch_feeds(modules[roots[name]], batch, self._options.bind, self._seed)
                        if arrays is not None:
                            arrays = _cast(arrays, runners[name], self._store.get_module(emitted.snapshot))
                            runners[name].run(arrays)
                            feeds[name] = arrays
                    except (RunError, TargetError) as error:
                        if isinstance(error, TargetError) and error.missing:
                            lacking[name] = TargetError(f"batch {batch}: {error}", missing=True, help=error.help)
                        else:
                            refused[name] = f"batch {batch}: {error}"
                if not feeds:
                    continue
                rounds = self._options.runs + self._options.warmup
                with self._reporter.activity(f"timing on {emitter.name}, batch {batch}", rounds) as activity:
                    timings = profile(
                        {name: runners[name] for name in feeds},
                        feeds,
                        runs=self._options.runs,
                        warmup=self._options.warmup,
                        batch=batch,
                        precision=self._options.precision,
                        seconds=self._options.seconds,
                        settle=SETTLE,
                        baselines={name: base for name, base in baselines.items() if name in feeds and base in feeds},
                        advance=activity.advance,
                    )
                for name, timing in timings.items():
                    found[name][str(batch)] = _latency(timing)
        return {"times": found, "refused": refused, "fell_back": fell_back}, lacking


def batch_feeds(module: Module, batch: int, bind: Mapping[str, int], seed: int) -> dict[str, Any] | None:
    """Draw inputs with a batch size; None where the model's batch is fixed at another size."""
    from mopt.runtime.dimensions import dynamic_dimensions
    from mopt.runtime.inputs import binding_sets, seeded_inputs

    dimensions = dynamic_dimensions(module)
    leading = [d.key for d in dimensions if any(axis == 0 for _, axis in d.places)]
    if not leading and not any(port.shape and port.shape[0] == batch for port in module.inputs):
        return None
    sizes = {**binding_sets(module)[0], **bind, **dict.fromkeys(leading, batch)}
    return seeded_inputs(module, {d.key: sizes[d.key] for d in dimensions if d.key in sizes}, seed=seed)


def _cast(arrays: Mapping[str, Any], runner: Any, module: Module) -> dict[str, Any]:
    from mopt.runtime.ort import cast_feeds

    ports: Sequence[Any] = getattr(runner, "inputs", None) or module.inputs
    return cast_feeds(arrays, ports)


def _latency(timing: Any) -> dict[str, Any]:
    return {
        "median": timing.median * 1e3,
        "low": timing.low * 1e3,
        "high": timing.high * 1e3,
        "ratio": timing.ratio.value if timing.ratio else None,
        "ratio_low": timing.ratio.low if timing.ratio else None,
        "ratio_high": timing.ratio.high if timing.ratio else None,
        "verdict": timing.ratio.verdict if timing.ratio else None,
    }


def machine_identity() -> dict[str, str]:
    """Return what makes timings of two machines incomparable."""
    return {"node": platform.node(), "machine": platform.machine(), "processor": _processor()}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
