"""Which units to quantise for onnxruntime on the CPU: convolutions and products always, others where it pays.

An elementwise operator on bytes is cheap, but only between neighbours that are on bytes, too: each border costs a
QuantizeLinear or, for every reader, a DequantizeLinear. All units start quantised; then those are taken out whose
removal saves more at borders than it costs, until none is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Final

import onnx_ir as ir
from mopt.passes.quantize.static_units import WEIGHTED, Unit

QUANTIZE: Final = 0.10
DEQUANTIZE: Final = 0.17
"""Nanoseconds an element, measured as `COST`."""

COST: Final = {
    "Add": (0.11, 0.14), "Mul": (0.11, 0.24), "HardSigmoid": (0.28, 0.28), "Sigmoid": (0.45, 0.30),
    "LeakyRelu": (0.10, 0.30), "Concat": (0.10, 0.05), "GlobalAveragePool": (0.05, 0.05), "AveragePool": (0.30, 0.60),
    "MaxPool": (0.60, 0.60), "Transpose": (0.30, 0.15),
}  # fmt: skip
"""(float, integer) nanoseconds an element, onnxruntime 1.31, one thread of a processor with AVX-512 VNNI, tensors of
1 × 64 × 24 × 160. They decide what pays; that they are constants keeps results the same on every machine. A hard
swish is listed by its HardSigmoid."""
_MOVED: Final = (0.01, 0.01)


class Placement:
    """The units chosen so far, found by the value they give and by the nodes they are made of."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self.by_value: dict[ir.Value, Unit] = {}
        self.by_node: dict[ir.Node, Unit] = {}
        for unit in units:
            self.by_value[unit.result] = unit
            for node in (unit.node, *unit.folded):
                self.by_node[node] = unit

    @property
    def units(self) -> list[Unit]:
        """The chosen units in topological order."""
        return list(self.by_value.values())

    def remove(self, unit: Unit) -> None:
        """Leave a unit in float."""
        del self.by_value[unit.result]
        for node in (unit.node, *unit.folded):
            del self.by_node[node]

    def on_grid(self, value: ir.Value) -> Unit | None:
        """Return the chosen unit that gives a value as bytes; a product's result stays float."""
        unit = self.by_value.get(value)
        if unit is None or unit.kind == "matmul":
            return None
        if unit.kind == "gemm" and not any(usage.node in self.by_node for usage in value.uses()):
            return None
        return unit

    def border(self, value: ir.Value, size: int) -> float:
        """Return what turning a value of `size` elements to bytes or back costs, in nanoseconds."""
        readers = [usage.node for usage in value.uses()]
        quantised = sum(node in self.by_node for node in readers)
        if self.on_grid(value) is not None:
            return DEQUANTIZE * size * (len(readers) - quantised + int(value.is_graph_output()))
        return QUANTIZE * size * bool(quantised)


def place(units: Sequence[Unit], shapes: Mapping[str, tuple[int, ...]], left: set[str]) -> Placement:
    """Return the units to quantise.

    Args:
        units: all that can be, in topological order.
        shapes: of the values, as calibration saw them.
        left: names of units that stay in float (`keep`, or the sensitivity analysis).
    """
    placement = Placement(unit for unit in units if unit.name not in left)
    changed = True
    while changed:
        changed = False
        for unit in placement.units:
            if unit.kind not in WEIGHTED and (_lacks(unit, placement) or _saved_without(unit, placement, shapes) >= 0):
                placement.remove(unit)
                changed = True
    return placement


def _lacks(unit: Unit, placement: Placement) -> bool:
    """Say whether what must be on bytes for this unit is not: a hard swish's argument, what a move passes on."""
    return unit.kind in ("hardswish", "move") and placement.on_grid(unit.inputs[0]) is None


def _saved_without(unit: Unit, placement: Placement, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the nanoseconds saved by leaving a unit in float."""
    real, integer = COST.get("HardSigmoid" if unit.kind == "hardswish" else unit.node.op_type, _MOVED)
    values = dict.fromkeys((*unit.inputs, unit.result))
    sizes = {value: prod(shapes.get(value.name or "", (1,))) for value in values}
    size = max(sizes.values()) if unit.kind == "pool" else sizes[unit.result]
    here = sum(placement.border(value, count) for value, count in sizes.items()) + integer * size
    without = Placement(other for other in placement.units if other is not unit)
    there = sum(without.border(value, count) for value, count in sizes.items()) + real * size
    if unit.shifted is not None:
        there += COST["Add"][0] * size
    return here - there
