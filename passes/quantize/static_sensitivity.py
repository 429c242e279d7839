"""Which units to leave in float: the most error of the outputs taken away for the time given back.

Every rounding's error is measured alone (`static_noise`), every unit's time predicted (`static_time`). Runs of
neighbouring units are then taken out of bytes, at each step the one that takes the most error away a nanosecond,
conversions at its borders included: a value loses its error when all that touch it are float, and part of it when
what gives it is, so that only some readers round it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING, Final

import onnx_ir as ir
from mopt.analysis.cost import cost
from mopt.ir import Module
from mopt.passes.contract import Context
from mopt.passes.quantize.calibration import Calibration
from mopt.passes.quantize.static_noise import Noise, noise
from mopt.passes.quantize.static_placements import place_for
from mopt.passes.quantize.static_rounding import Rounded
from mopt.passes.quantize.static_time import Clock, Links
from mopt.passes.quantize.static_units import Unit

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static
    from mopt.runtime.contract import Split

_LEAST: Final = 0.001
"""What takes away less than this share of the error that is left is not worth leaving out."""
_LONGEST: Final = 12
"""Units of the longest run that is taken out at once."""
_BYTES: Final = 0.5
"""What a share of the weights weighs in the choice beside the same share of the time saved: files should stay small."""


@dataclass(frozen=True)
class Sensitive:
    """A unit left in float: its name, its share of the error that all roundings make, its share of MACs."""

    unit: str
    share: float
    macs: float


@dataclass(frozen=True)
class Analysis:
    """What a sensitivity analysis found.

    Attributes:
        left: the units to leave in float, in the order they were chosen in.
        before, after: predicted signal to error of the outputs in decibels, all on bytes and without those.
        time: share of the time that bytes save which is given back.
    """

    left: tuple[Sensitive, ...] = ()
    before: float = 0.0
    after: float = 0.0
    time: float = 0.0


def sensitive(
    module: Module,
    units: Sequence[Unit],
    kept: set[str],
    seen: Calibration,
    rounded: Mapping[str, Rounded],
    split: Split,
    options: Static,
    context: Context,
) -> Analysis:
    """Return the units to leave in float, as many as the budget holds. Hard swishes and moves follow what they read."""
    placement = place_for(options, units, seen.shapes, kept)
    macs = _macs(module, seen)
    measured = noise(module, placement, seen, rounded, split, options, context, macs=sum(macs.values()))
    links = Links(placement)
    wide = options.activations.endswith("16") or options.sensitive != "float"
    clock = Clock(links, seen.shapes, macs, table=options.placement == "onnxruntime" and not wide)
    search = _Search(placement.units, links, clock, measured, wide=options.sensitive != "float")
    if search.saved <= 0:
        # So small a network gains nothing by the table; then multiplications alone count.
        clock = Clock(links, seen.shapes, macs, table=False)
        search = _Search(placement.units, links, clock, measured, wide=options.sensitive != "float")
    return search.run(float(options.budget), macs)


class _Search:
    """Takes units out of bytes; `wide`: into 16 bits, where their weights keep their 8."""

    def __init__(self, units: Sequence[Unit], links: Links, clock: Clock, measured: Noise, *, wide: bool) -> None:
        self._units, self._links, self._clock, self._noise, self._wide = units, links, clock, measured, wide
        self._quantised = set(units)
        values = self._touched(units)
        self.saved = clock.total(units, values, ()) - clock.total(units, values, self._quantised)
        self._followers = {
            value: [unit for unit in units if unit.kind in ("hardswish", "move") and unit.inputs[0] is value]
            for value in (unit.result for unit in units)
        }

    def run(self, budget: float, macs: Mapping[str, int]) -> Analysis:
        """Take runs out until the budget, a share of the time saved, is spent."""
        whole, saved = sum(self._noise.values.values()) + sum(self._noise.weights.values()), self.saved
        if not whole or saved <= 0:
            return Analysis()
        weights = self._weights(self._units) or 1
        spent, left, error, total = 0.0, [], whole, sum(macs.values()) or 1
        while True:
            best: tuple[float, float, float, tuple[Unit, ...]] | None = None
            for run in self._runs():
                gain, time = self._change(run)
                if gain < _LEAST * error or spent + time > budget * saved:
                    continue
                stored = 0.0 if self._wide else _BYTES * self._weights(run) / weights
                worth = gain / max(time / saved + stored, 1e-6)
                if best is None or worth > best[0] * (1 + 1e-9):
                    best = worth, gain, time, run
            if best is None or best[1] < error * best[2] / saved:  # worth less than its share of the time
                break
            _, gain, time, run = best
            shares = self._shares(run)
            self._quantised.difference_update(run)
            spent, error = spent + time, max(error - gain, 1e-30)
            left += [Sensitive(unit.name, shares[unit] / whole, macs.get(unit.name, 0) / total) for unit in run]
        return Analysis(tuple(left), -10 * log10(whole), -10 * log10(error), spent / saved)

    @staticmethod
    def _weights(units: Sequence[Unit]) -> int:
        return sum(unit.weight.size for unit in units if unit.weight is not None)

    def _runs(self) -> Iterator[tuple[Unit, ...]]:
        """Yield runs of neighbours that are still on bytes, with the hard swishes and moves that follow them."""
        found: dict[frozenset[Unit], None] = {}
        for start in range(len(self._units)):
            for length in range(1, _LONGEST + 1):
                found.setdefault(self._closed(self._units[start : start + length]))
        for value, readers in self._links.read.items():
            made = self._links.made.get(value)
            found.setdefault(self._closed([*readers, *([made] if made is not None else [])]))
        order = {unit: index for index, unit in enumerate(self._units)}
        for run in found:
            if run:
                yield tuple(sorted(run, key=order.__getitem__))

    def _closed(self, units: Sequence[Unit]) -> frozenset[Unit]:
        found, left = set(), list(units)
        while left:
            unit = left.pop()
            if unit in self._quantised and unit not in found:
                found.add(unit)
                left += self._followers.get(unit.result, [])
        return frozenset(found)

    def _touched(self, run: Sequence[Unit]) -> list[ir.Value]:
        return list(dict.fromkeys(value for unit in run for value in self._links.of(unit)))

    def _change(self, run: Sequence[Unit]) -> tuple[float, float]:
        """Return the error that leaving a run in float takes away, and the time it takes."""
        values, without = self._touched(run), self._quantised.difference(run)
        time = self._clock.total(run, values, without) - self._clock.total(run, values, self._quantised)
        return sum(self._shares(run).values()), time

    def _shares(self, run: Sequence[Unit]) -> dict[Unit, float]:
        """Return the error that goes with each unit of a run: its weights', and what is then rounded no more."""
        without = self._quantised.difference(run)
        found = {unit: 0.0 if self._wide else self._noise.weights.get(unit.name, 0.0) for unit in run}
        for value in self._touched(run):
            gain = self._rounding(value, self._quantised) - self._rounding(value, without)
            if gain:
                made = self._links.made.get(value)
                owner = made if made in found else next(unit for unit in run if value in unit.inputs)
                assert owner is not None
                found[owner] += gain
        return found

    def _rounding(self, value: ir.Value, quantised: Collection[Unit]) -> float:
        """Return the error that rounding a value makes: for all who read it, or for those that read it on bytes."""
        if value not in self._noise.values or not self._links.on_bytes(value, quantised):
            return 0.0
        whole, readers = self._noise.values[value], self._links.read[value]
        integer = [unit for unit in readers if unit in quantised]
        if self._links.made.get(value) in quantised or len(integer) == len(readers) + self._links.others[value]:
            return whole
        return sum(self._noise.reads.get((value, unit.name), whole) for unit in integer)


def _macs(module: Module, seen: Calibration) -> Mapping[str, int]:
    shapes: dict[str, int] = {}
    for info in module.inputs:
        for dim, size in zip(info.shape, seen.shapes.get(info.name, ()), strict=False):
            if isinstance(dim, str):
                shapes[dim] = size
    return {name: entry.macs for name, entry in cost(module, shapes).per_node.items()}


def regrids(options: Static) -> bool:
    """Say whether units may be written on one grid and read on another; see `find_units`."""
    return options.activations == "uint8" and not options.symmetric
