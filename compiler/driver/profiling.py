"""`mopt profile A B`: models timed against each other, without a recipe."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mopt.driver.candidates import Candidate, candidates
from mopt.runtime.gpu import Missing, gpus

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.runtime.ort_options import GpuOptions
    from mopt.runtime.ort_placement import Placement
    from mopt.runtime.profiler import Timing
    from mopt.runtime.profiler.energy import Energy
    from mopt.runtime.profiler.footprint import Footprint
    from mopt.runtime.profiler.nodes import NodeProfile

GROWING: Final = 1.05
"""Throughput grows where it gains more than this from one batch to the next."""
LARGEST: Final = 1024
"""The largest batch that is tried in search of the best one."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        models: references, as `candidates` takes them; the first is the baseline.
        batches: batch sizes; `sweep` gives sizes of another dimension to try each of, by its name.
        runs, warmup: rounds that count, at least, and rounds before them.
        precision, seconds: go on until half of each ratio's interval is this small, or for so long a point.
        threads, provider: for onnxruntime; `threads` for frameworks too.
        bind: sizes of dynamic dimensions.
        nodes: also time by operator and source layer. memory: also load each in a process of its own.
        energy: also read the joules of a run off the GPU.
        throughput: double the batch while some model's samples a second still grow.
        gpu: options of the provider, on a GPU.
    """

    models: Sequence[str]
    batches: Sequence[int] = (1,)
    runs: int = 20
    warmup: int = 3
    precision: float = 0.02
    seconds: float = 1.0
    threads: int = 1
    provider: Any = "cpu"
    bind: Mapping[str, int] = field(default_factory=dict)
    sweep: Mapping[str, Sequence[int]] = field(default_factory=dict)
    nodes: bool = False
    memory: bool = False
    energy: bool = False
    throughput: bool = False
    gpu: GpuOptions | None = None


@dataclass(frozen=True)
class Point:
    """One size at which all models were timed: the batch, sizes by dimension, and each model's timing.

    `asked` are the sizes that were asked for, of `sizes`.
    """

    batch: int
    sizes: Mapping[str, int]
    timings: Mapping[str, Timing]
    asked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What `mopt profile` found.

    Attributes:
        baseline: the model that ratios refer to; `stated` says with its precision what it is.
        runtimes: what ran each model.
        points: in the order in which they were timed.
        stopped: why the batch was doubled no further; empty where that was not asked for.
        placements: by model, which provider runs which node, where onnxruntime runs it and tells.
        nodes, footprints: by model, where asked for and where the model is a graph (an engine has a footprint, too).
        energy: by model, where asked for; or why it was not measured.
    """

    baseline: str
    machine: Mapping[str, Any]
    runtimes: Mapping[str, str]
    points: Sequence[Point]
    stated: str = ""
    stopped: str = ""
    placements: Mapping[str, Placement] = field(default_factory=dict)
    nodes: Mapping[str, NodeProfile] = field(default_factory=dict)
    footprints: Mapping[str, Footprint] = field(default_factory=dict)
    energy: Mapping[str, Energy | Missing] = field(default_factory=dict)

    def best(self, name: str) -> Point:
        """Return the point at which a model has its highest throughput."""
        return max(self.points, key=lambda point: point.timings[name].throughput)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, times in seconds."""
        return {
            "baseline": self.baseline,
            "baseline_is": self.stated,
            "machine": dict(self.machine),
            "runtimes": dict(self.runtimes),
            "points": [
                {
                    "batch": point.batch,
                    "sizes": dict(point.sizes),
                    "models": {name: timing.to_json() for name, timing in point.timings.items()},
                }
                for point in self.points
            ],
            "best_batch": {name: self.best(name).batch for name in self.runtimes},
            "best_throughput": {name: self.best(name).timings[name].throughput for name in self.runtimes},
            "stopped": self.stopped,
            "placements": {name: found.to_json() for name, found in self.placements.items()},
            "nodes": {name: found.to_json() for name, found in self.nodes.items()},
            "footprints": {name: found.to_json() for name, found in self.footprints.items()},
            "energy": {
                name: {"not_measured": found.reason} if isinstance(found, Missing) else found.to_json()
                for name, found in self.energy.items()
            },
        }


def profile_models(request: Request) -> Comparison:
    """Time models in interleaved rounds on the same seeded inputs, those of the first graph's interface.

    Raises:
        LoadError, StoreError, SourceError: a model can't be found.
        RunError: a model does not take the inputs, or its batch is fixed at another size.
        TargetError: a runtime refuses a model, or is missing here.
    """
    from mopt.build.timing import machine_identity
    from mopt.driver.half_baseline import with_half_baseline
    from mopt.driver.profile_details import look_into, placements

    named = candidates(request.models, request.provider, request.threads, request.gpu)
    if request.provider != "cpu" and any(one.module is not None for one in named):
        from mopt.runtime.ort_provider import require

        require(request.provider)  # before anything is converted or loaded for it
    with contextlib.ExitStack() as stack:
        from mopt.runtime.profiler import pinned

        # Before anything is opened: threads that a runtime starts stay where the one is that started them.
        cores = stack.enter_context(pinned(request.threads)) if request.provider == "cpu" else ()
        chosen, stated = with_half_baseline(named, request.provider, request.threads, request.gpu)
        runners = {one.name: _opened(one, stack) for one in chosen}
        timer = _Timer(*_interface(chosen), runners, chosen[0].name, request)
        points = [timer.time(batch, sizes) for batch, sizes in _points(timer.module, request)]
        stopped = timer.double(points) if request.throughput else ""
        machine: dict[str, Any] = {**machine_identity(), "provider": request.provider, "threads": request.threads}
        machine["cores"] = list(cores)
        if request.provider != "cpu":
            machine["gpu"] = ", ".join(gpu.name for gpu in gpus()[:1])
        runtimes = {one.name: one.runtime for one in chosen}
        found = Comparison(chosen[0].name, machine, runtimes, points, stated, stopped, placements(runners))
        return look_into(found, chosen, runners, timer.feeds, request)


class _Timer:
    """Times opened models at one size after another."""

    def __init__(self, graph: str, module: Module, runners: Mapping[str, Any], baseline: str, request: Request) -> None:
        self.module = module
        self._graph, self._runners, self._baseline, self._request = graph, runners, baseline, request

    def feeds(self, batch: int, sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Return each model's inputs.

        Raises:
            RunError: the batch is fixed at another size, or a model takes other inputs.
        """
        from mopt.build.timing import batch_feeds
        from mopt.runtime.contract import RunError

        arrays = batch_feeds(self.module, batch, sizes, seed=0)
        if arrays is None:
            raise RunError(f"{self._graph}: its batch is fixed; it does not take batch {batch}")
        return {name: _feeds(name, self._graph, runner, arrays) for name, runner in self._runners.items()}

    def time(self, batch: int, sizes: Mapping[str, int]) -> Point:
        """Time all models at one size.

        Raises:
            RunError: see `feeds`; or a model does not run at it.
        """
        from mopt.build.timing import SETTLE, batch_feeds
        from mopt.runtime.dimensions import dynamic_dimensions
        from mopt.runtime.profiler import profile

        request = self._request
        timings = profile(
            self._runners, self.feeds(batch, sizes), runs=request.runs, warmup=request.warmup, batch=batch,
            baselines=self._baseline, precision=request.precision, seconds=request.seconds, settle=SETTLE,
        )  # fmt: skip
        arrays = batch_feeds(self.module, batch, sizes, seed=0) or {}
        shown = {d.key: int(arrays[d.places[0][0]].shape[d.places[0][1]]) for d in dynamic_dimensions(self.module)}
        return Point(batch, shown, timings, dict(sizes))

    def double(self, points: list[Point]) -> str:
        """Add points of ever larger batches while some model's throughput grows; return why no larger one was tried.

        A batch that a model or the device does not take ends it.
        """
        from mopt.runtime.contract import RunError

        while True:
            last = points[-1]
            earlier = points[:-1]
            if earlier and not any(
                last.timings[name].throughput > GROWING * max(point.timings[name].throughput for point in earlier)
                for name in self._runners
            ):
                return f"at batch {last.batch} no model gives {GROWING - 1:.0%} more samples a second than before"
            if last.batch * 2 > LARGEST:
                return f"batch {LARGEST} is the largest that is tried"
            try:
                points.append(self.time(last.batch * 2, last.asked))
            except RunError as error:
                return f"batch {last.batch * 2}: {error}"


def _interface(chosen: Sequence[Candidate]) -> tuple[str, Module]:
    """Return the name and the graph of the first candidate that has one: inputs are drawn for it.

    Raises:
        TargetError: there are only engines.
        SourceError: a framework's model can't be lowered.
    """
    from mopt.runtime.contract import TargetError

    for one in chosen:
        if one.module is not None:
            return one.name, one.module
    for one in chosen:
        if one.lower is not None:
            return one.name, one.lower()
    raise TargetError(
        "none of these models has a graph to draw inputs for", help="name the ONNX model they come from too"
    )


def _points(module: Module, request: Request) -> list[tuple[int, dict[str, int]]]:
    """Return every (batch, sizes) to time.

    Raises:
        RunError: a dimension to sweep is not one of the model's.
    """
    from mopt.runtime.contract import RunError
    from mopt.runtime.dimensions import dynamic_dimensions

    known = {dimension.key for dimension in dynamic_dimensions(module)}
    unknown = sorted({*request.sweep, *request.bind} - known)
    if unknown:
        have = ", ".join(sorted(known)) or "none"
        raise RunError(f"the model has no dynamic dimension {', '.join(f'`{key}`' for key in unknown)}; it has {have}")
    names = list(request.sweep)
    return [
        (batch, {**request.bind, **dict(zip(names, sizes, strict=True))})
        for batch in dict.fromkeys(request.batches)
        for sizes in itertools.product(*(dict.fromkeys(request.sweep[name]) for name in names))
    ]


def _opened(one: Candidate, stack: contextlib.ExitStack) -> Any:
    runner = one.open()
    close = getattr(runner, "close", None)
    if callable(close):
        stack.callback(close)
    return runner


def _feeds(name: str, graph: str, runner: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    from mopt.runtime.contract import RunError
    from mopt.runtime.ort import cast_feeds

    ports = getattr(runner, "inputs", None)
    if ports is None:  # a framework's model takes the recipe's names and types
        return dict(arrays)
    missing = [port.name for port in ports if port.name not in arrays]
    if missing:
        raise RunError(f"{name}: its inputs {', '.join(missing)} are not inputs of {graph}")
    return cast_feeds(arrays, ports)
