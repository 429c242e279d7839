"""What `mopt profile` tells beside times: where nodes run, where time goes, memory, energy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mopt.runtime.gpu import Missing

if TYPE_CHECKING:
    from mopt.driver.candidates import Candidate
    from mopt.driver.profiling import Comparison, Request
    from mopt.runtime.ort_placement import Placement
    from mopt.runtime.profiler.energy import Energy

Feeds = Callable[[int, Mapping[str, int]], dict[str, dict[str, Any]]]
"""Inputs of every model, by batch and sizes."""


def placements(runners: Mapping[str, Any]) -> dict[str, Placement]:
    """Return which provider runs which node, of the models that onnxruntime runs."""
    found = {name: getattr(runner, "placement", None) for name, runner in runners.items()}
    return {name: placed for name, placed in found.items() if placed is not None}


def look_into(
    found: Comparison, chosen: Sequence[Candidate], runners: Mapping[str, Any], feeds: Feeds, request: Request
) -> Comparison:
    """Add what is asked for: by operator and memory at the first point's sizes, energy at each model's best batch.

    Raises:
        TargetError: a model can't be loaded again.
    """
    first = found.points[0]
    if request.energy:
        found = replace(found, energy=_energy(found, runners, feeds, request))
    if not request.nodes and not request.memory:
        return found
    from mopt.ir.provenance import stamp_source
    from mopt.runtime.profiler.engine_nodes import engine_times
    from mopt.runtime.profiler.footprint import footprint
    from mopt.runtime.profiler.nodes import node_times

    given = feeds(first.batch, first.asked)
    nodes, footprints = {}, {}
    for one in chosen:
        if one.module is not None and request.nodes:
            stamp_source(one.module)
            nodes[one.name] = node_times(
                one.module, given[one.name], provider=request.provider, threads=request.threads, runs=request.runs
            )
        elif one.engine is not None and request.nodes:
            nodes[one.name] = engine_times(one.engine, one.runtime, given[one.name], runs=request.runs)
        if request.memory and (model := one.engine or one.module) is not None:
            footprints[one.name] = footprint(
                model, given[one.name], provider=request.provider, threads=request.threads,
                library=one.runtime if one.engine else "",
            )  # fmt: skip
    return replace(found, nodes=nodes, footprints=footprints)


def _energy(
    found: Comparison, runners: Mapping[str, Any], feeds: Feeds, request: Request
) -> dict[str, Energy | Missing]:
    from mopt.runtime.profiler.energy import measure_energy, open_meter

    if request.provider == "cpu":
        nothing = Missing("it is read off NVIDIA GPUs, and these models run on the CPU", "use `--provider cuda`")
        return dict.fromkeys(runners, nothing)
    meter = open_meter()
    if isinstance(meter, Missing):
        return dict.fromkeys(runners, meter)
    measured: dict[str, Energy | Missing] = {}
    for name, runner in runners.items():
        point = found.best(name)
        run = _running(runner, feeds(point.batch, point.asked)[name])
        measured[name] = measure_energy(meter, run, batch=point.batch)
    return measured


def _running(runner: Any, arrays: Mapping[str, Any]) -> Callable[[], object]:
    """Return what runs once and returns when the device is done."""
    bound = getattr(runner, "bound", None)
    if callable(bound):
        run: Callable[[], object] = bound(arrays)
        return run
    return lambda: (runner.timed if hasattr(runner, "timed") else runner.run)(arrays)
