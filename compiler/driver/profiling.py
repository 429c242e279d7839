"""`mopt profile A B`: models timed against each other, without a recipe."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mopt.driver.candidates import Candidate, candidates

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.runtime.profiler import Timing
    from mopt.runtime.profiler.footprint import Footprint
    from mopt.runtime.profiler.nodes import NodeProfile


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


@dataclass(frozen=True)
class Point:
    """One size at which all models were timed: the batch, sizes by dimension, and each model's timing."""

    batch: int
    sizes: Mapping[str, int]
    timings: Mapping[str, Timing]


@dataclass(frozen=True)
class Comparison:
    """What `mopt profile` found; `baseline` is the first model.

    Attributes:
        runtimes: what ran each model.
        points: in the order in which they were timed.
        nodes, footprints: by model, where asked for and where the model is a graph.
    """

    baseline: str
    machine: Mapping[str, Any]
    runtimes: Mapping[str, str]
    points: Sequence[Point]
    nodes: Mapping[str, NodeProfile] = field(default_factory=dict)
    footprints: Mapping[str, Footprint] = field(default_factory=dict)

    def best(self, name: str) -> Point:
        """Return the point at which a model has its highest throughput."""
        return max(self.points, key=lambda point: point.timings[name].throughput)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, times in seconds."""
        return {
            "baseline": self.baseline,
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
            "nodes": {name: found.to_json() for name, found in self.nodes.items()},
            "footprints": {name: found.to_json() for name, found in self.footprints.items()},
        }


def profile_models(request: Request) -> Comparison:
    """Time models in interleaved rounds on the same seeded inputs, those of the first graph's interface.

    Raises:
        LoadError, StoreError, SourceError: a model can't be found.
        RunError: a model does not take the inputs, or its batch is fixed at another size.
        TargetError: a runtime refuses a model, or is missing here.
    """
    from mopt.build.timing import SETTLE, batch_feeds, machine_identity
    from mopt.runtime.contract import RunError
    from mopt.runtime.dimensions import dynamic_dimensions
    from mopt.runtime.profiler import profile

    chosen = candidates(request.models, request.provider, request.threads)
    with contextlib.ExitStack() as stack:
        runners = {one.name: _opened(one, stack) for one in chosen}
        graph, module = _interface(chosen)
        points: list[Point] = []
        first: dict[str, Any] = {}
        for batch, sizes in _points(module, request):
            arrays = batch_feeds(module, batch, sizes, seed=0)
            if arrays is None:
                raise RunError(f"{graph}: its batch is fixed; it does not take batch {batch}")
            first = first or arrays
            feeds = {name: _feeds(name, graph, runner, arrays) for name, runner in runners.items()}
            timings = profile(
                runners, feeds, runs=request.runs, warmup=request.warmup, batch=batch, baselines=chosen[0].name,
                precision=request.precision, seconds=request.seconds, settle=SETTLE,
            )  # fmt: skip
            shown = {d.key: int(arrays[d.places[0][0]].shape[d.places[0][1]]) for d in dynamic_dimensions(module)}
            points.append(Point(batch, shown, timings))
    machine = {**machine_identity(), "provider": request.provider, "threads": request.threads}
    found = Comparison(chosen[0].name, machine, {one.name: one.runtime for one in chosen}, points)
    return _looked_into(found, chosen, first, request) if request.nodes or request.memory else found


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


def _looked_into(
    found: Comparison, chosen: Sequence[Candidate], arrays: Mapping[str, Any], request: Request
) -> Comparison:
    """Add what is asked for beside times, at the first point's sizes."""
    from dataclasses import replace

    from mopt.ir.provenance import stamp_source
    from mopt.runtime.profiler.footprint import footprint
    from mopt.runtime.profiler.nodes import node_times

    nodes, footprints = {}, {}
    for one in chosen:
        if one.module is None:
            continue
        given = _cast_to(one.module, arrays)
        if request.nodes:
            stamp_source(one.module)
            nodes[one.name] = node_times(
                one.module, given, provider=request.provider, threads=request.threads, runs=request.runs
            )
        if request.memory:
            footprints[one.name] = footprint(one.module, given, provider=request.provider, threads=request.threads)
    return replace(found, nodes=nodes, footprints=footprints)


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


def _cast_to(module: Module, arrays: Mapping[str, Any]) -> dict[str, Any]:
    from mopt.runtime.ort import cast_feeds

    return cast_feeds(arrays, module.inputs)  # type: ignore[arg-type]
