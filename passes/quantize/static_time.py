"""Predicted time of a placement: what each unit takes in float and on bytes, and what crossing between them costs.

Nanoseconds of one thread of a processor with AVX-512 VNNI, onnxruntime 1.31; constants, so that what follows from them
is the same on every machine. For targets that no table was measured for, time is the share of multiplications.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import Final

import onnx_ir as ir
from mopt.passes.quantize.static_placement import COST, DEQUANTIZE, QUANTIZE, Placement
from mopt.passes.quantize.static_units import WEIGHTED, Unit
from mopt.passes.quantize.static_weights import output_axis

REORDER: Final = 0.17
"""Nanoseconds an element to leave the blocked layout that float convolutions use; the same to enter it again."""
_DENSE: Final = ((0.0077, 0.11, 0.12, 0.02), (0.0018, 0.046, 0.05, 0.015))
"""(float, integer) nanoseconds a multiplication, a weight, an element of the result and one of the input.

Fitted with what follows to the 152 convolutions of MobileNetV2, PP-OCRv4's recogniser and its detector as onnxruntime's
profiler times them within the networks; they come to within 15 % (one standard deviation)."""
_DEPTHWISE: Final = ((0.0123, 0.0, 0.16, 0.0), (0.0125, 0.0, 0.03, 0.0))
_GATHER: Final = {1: 0.0, 9: 1.9, 25: 0.8}
"""Nanoseconds a pixel and tap of an integer convolution of up to so many taps, whatever its channels."""
_GATHER_DEPTHWISE: Final = 0.66
_PRODUCT: Final = ((0.009, 0.08, 0.0, 0.0), (0.0027, 0.02, 0.0, 0.0))

Shapes = Mapping[str, tuple[int, ...]]


def costs(unit: Unit, shapes: Shapes) -> tuple[float, float]:
    """Return the nanoseconds that a unit takes in float and on bytes, conversions at its borders left out.

    Args:
        shapes: of the values, as calibration saw them.
    """
    size = prod(shapes.get(unit.result.name or "", (1,)))
    if unit.kind not in WEIGHTED:
        real, integer = COST.get("HardSigmoid" if unit.kind == "hardswish" else unit.node.op_type, (0.01, 0.01))
        outside = 0.0 if unit.kind in ("hardswish", "pool", "move") and unit.shifted is None else 2 * REORDER
        return (real + outside) * size, integer * size
    assert unit.weight is not None
    shape, gather = unit.weight.shape, 0.0
    if unit.kind != "conv":
        table, inner = _PRODUCT, unit.weight.size // max(shape[output_axis(unit)], 1)
    else:
        outputs, per_group, *kernel = shape
        inner, taps = per_group * prod(kernel), prod(kernel)
        depthwise = per_group == 1 and outputs > 1 and unit.node.attributes.get_int("group", 1) > 1
        table = _DEPTHWISE if depthwise else _DENSE
        each = _GATHER_DEPTHWISE if depthwise else next((ns for most, ns in _GATHER.items() if taps <= most), 0.8)
        gather = each * taps * size / outputs
    counts = size * inner, unit.weight.size, size, prod(shapes.get(unit.inputs[0].name or "", (1,)))
    real, integer = (sum(ns * count for ns, count in zip(row, counts, strict=True)) for row in table)
    if unit.shifted is not None:
        real += (2 * REORDER + COST["Add"][0]) * size
    return real, integer + gather


class Links:
    """Which units write and read each value that may lie on bytes.

    Attributes:
        made: the unit that gives a value as bytes, whoever reads it.
        read: the units that read a value.
        others: how many readers are no units, the graph's outputs among them.
    """

    def __init__(self, placement: Placement) -> None:
        self.made: dict[ir.Value, Unit] = {}
        self.read: dict[ir.Value, list[Unit]] = {}
        self.others: dict[ir.Value, int] = {}
        for unit in placement.units:
            if placement.on_grid(unit.result) is not None:
                self.made[unit.result] = unit
            for value in dict.fromkeys(unit.inputs):
                self.read.setdefault(value, []).append(unit)
        for value in dict.fromkeys((*self.made, *self.read)):
            units = {placement.by_node[usage.node] for usage in value.uses() if usage.node in placement.by_node}
            nodes = {usage.node for usage in value.uses()} - set(placement.by_node)
            self.others[value] = len(nodes) + int(value.is_graph_output())
            self.read.setdefault(value, [unit for unit in units if value in unit.inputs])

    def of(self, unit: Unit) -> list[ir.Value]:
        """Return the values that a unit reads or gives."""
        return [value for value in dict.fromkeys((*unit.inputs, unit.result)) if value in self.others]

    def on_bytes(self, value: ir.Value, quantised: Collection[Unit]) -> bool:
        """Say whether a value is rounded to a grid while exactly these units are quantised."""
        return self.made.get(value) in quantised or any(unit in quantised for unit in self.read[value])


class Clock:
    """Predicts nanoseconds, or counts multiplications where `table` is not.

    Args:
        macs: of each unit, by name.
        table: whether the table holds for the target.
    """

    def __init__(self, links: Links, shapes: Shapes, macs: Mapping[str, int], *, table: bool) -> None:
        self._links, self._shapes, self._macs, self._table = links, shapes, macs, table

    def costs(self, unit: Unit) -> tuple[float, float]:
        """Return what a unit takes in float and on bytes."""
        if not self._table:
            return float(max(self._macs.get(unit.name, 0), self._size(unit.result))), 0.0
        return costs(unit, self._shapes)

    def total(self, units: Iterable[Unit], values: Sequence[ir.Value], quantised: Collection[Unit]) -> float:
        """Return the time of units and of the borders at values."""
        return sum(self.costs(unit)[unit in quantised] for unit in units) + sum(
            self._border(value, quantised) for value in values
        )

    def _border(self, value: ir.Value, quantised: Collection[Unit]) -> float:
        if not self._table:
            return 0.0
        readers = self._links.read[value]
        real = sum(unit not in quantised for unit in readers) + self._links.others[value]
        if self._links.made.get(value) in quantised:
            return (DEQUANTIZE + REORDER) * self._size(value) * bool(real)
        integer = any(unit in quantised for unit in readers)
        return (QUANTIZE + REORDER) * self._size(value) * integer

    def _size(self, value: ir.Value) -> int:
        return prod(self._shapes.get(value.name or "", (1,)))
