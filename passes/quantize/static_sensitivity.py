"""Which units cost most accuracy for the time they save: each quantised alone, the outputs compared with float's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from mopt.analysis.cost import cost
from mopt.ir import Module
from mopt.passes.contract import Context
from mopt.passes.quantize.calibration import Calibration
from mopt.passes.quantize.static_graph import Writer
from mopt.passes.quantize.static_placements import place_for, placement_of
from mopt.passes.quantize.static_units import Unit, find_units
from mopt.runtime.data.sample_fit import feeds_of
from mopt.runtime.ort import OrtRunner

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static
    from mopt.runtime.contract import Split

SAMPLES: Final = 4
"""Calibration samples that errors are measured on."""
_LEAST: Final = 0.003
"""A unit whose error is less than this share of all is not worth leaving out."""


@dataclass(frozen=True)
class Sensitive:
    """A unit left in float: its name, its share of the error that all units make one by one, its share of MACs."""

    unit: str
    share: float
    macs: float


def sensitive(
    module: Module,
    units: Sequence[Unit],
    kept: set[str],
    seen: Calibration,
    split: Split,
    options: Static,
    context: Context,
) -> tuple[Sensitive, ...]:
    """Return the units to leave in float: the most error a MAC first, as many as the budget holds.

    A unit without MACs counts with its elements. Hard swishes and moves follow what they read.
    """
    placed = place_for(options, units, seen.shapes, kept).units
    candidates = [unit for unit in placed if unit.kind not in ("hardswish", "move")]
    macs = _macs(module, seen)
    total = sum(macs.values()) or 1
    work = {unit.name: max(macs.get(unit.name, 0), prod(seen.shapes[unit.result.name or ""])) for unit in candidates}
    feeds = _feeds(module, split)
    expected = _outputs(module, feeds)
    errors = {}
    with context.progress("measure sensitivity", len(candidates)) as progress:
        for unit in candidates:
            errors[unit.name] = _error(expected, _outputs(_alone(module, unit.name, seen, options), feeds))
            progress.advance()
    whole = sum(errors.values())
    if not whole:
        return ()
    spent, chosen = 0, []
    for unit in sorted(candidates, key=lambda unit: (-errors[unit.name] / max(work[unit.name], 1), unit.name)):
        used = work[unit.name]
        if errors[unit.name] >= _LEAST * whole and spent + used <= options.budget * total:
            spent += used
            chosen.append(Sensitive(unit.name, errors[unit.name] / whole, used / total))
    return tuple(chosen)


def _alone(module: Module, name: str, seen: Calibration, options: Static) -> Module:
    """Quantise one unit of a copy, with the hard swish that would read its bytes: on them its knees are coarse, too."""
    copy = module.clone()
    every = find_units(copy, regrid=regrids(options))[0]
    result = next(unit.result for unit in every if unit.name == name)
    units = [unit for unit in every if unit.name == name or (unit.kind == "hardswish" and unit.inputs[0] is result)]
    Writer(copy, placement_of(options, units, seen.shapes), seen.tensors, options).write()
    return copy


def _macs(module: Module, seen: Calibration) -> Mapping[str, int]:
    shapes: dict[str, int] = {}
    for info in module.inputs:
        for dim, size in zip(info.shape, seen.shapes.get(info.name, ()), strict=False):
            if isinstance(dim, str):
                shapes[dim] = size
    return {name: entry.macs for name, entry in cost(module, shapes).per_node.items()}


def _feeds(module: Module, split: Split) -> list[Mapping[str, np.ndarray[Any, Any]]]:
    found: list[Mapping[str, np.ndarray[Any, Any]]] = []
    for stacked in split.batches(1):
        found.append(feeds_of(stacked, tuple(module.inputs)))
        if len(found) == SAMPLES:
            break
    return found


def _outputs(module: Module, feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]]) -> list[dict[str, Any]]:
    with OrtRunner(module) as runner:
        return [runner.run(sample) for sample in feeds]


def _error(expected: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]) -> float:
    """Return the squared error of float outputs, each scaled by its own power, summed over outputs and samples."""
    total = 0.0
    for wanted, given in zip(expected, actual, strict=True):
        for name, array in wanted.items():
            if array.dtype.kind == "f" and array.size:
                power = float(np.mean(np.square(array, dtype=np.float64))) or 1.0
                total += float(np.mean(np.square(given[name] - array, dtype=np.float64))) / power
    return total


def regrids(options: Static) -> bool:
    """Say whether units may be written on one grid and read on another; see `find_units`."""
    return options.activations == "uint8" and not options.symmetric
