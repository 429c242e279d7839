"""Where bytes begin: how far from its inputs a network stays float because onnxruntime runs it nearly as fast.

The first convolutions read few channels at full resolution. An integer convolution gathers each tap of its kernel by
itself, which few channels do not pay for, while a float one keeps 16 channels in a register: three channels of an
image take one and a half to two and a half times as long on bytes. Those are also the layers whose wide ranges bytes
hold worst, so that the longest start that costs next to no time is left in float, unless its weights would make the
file larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

from mopt.passes.quantize.static_placement import DEQUANTIZE, QUANTIZE, Placement
from mopt.passes.quantize.static_time import REORDER, Shapes, costs
from mopt.passes.quantize.static_units import Unit

_SHARE: Final = 0.005
"""Weights that may stay float so, of all weights of units: three bytes each is what the file grows by."""
_GIVEN: Final = 0.05
"""Share of the time that bytes save which the start may give back: what it errs costs more than that elsewhere."""


def stem(units: Sequence[Unit], shapes: Shapes) -> tuple[str, ...]:
    """Return the names of the units, in topological order, that stay float at the start of the network.

    Costs are of one thread of a processor with AVX-512 VNNI, onnxruntime 1.31; constants, so that the result does
    not depend on the machine.

    Args:
        units: all that can be quantised, in topological order.
        shapes: of the values, as calibration saw them.
    """
    weights = sum(unit.weight.size for unit in units if unit.weight is not None)
    allowed = _GIVEN * sum(real - integer for real, integer in (costs(unit, shapes) for unit in units))
    inside = Placement(())
    saved, held, end = 0.0, 0, 0
    for index, unit in enumerate(units):
        held += 0 if unit.weight is None else unit.weight.size
        if held > _SHARE * weights:
            break
        for node in (unit.node, *unit.folded):
            inside.by_node[node] = unit
        inside.by_value[unit.result] = unit
        real, integer = costs(unit, shapes)
        saved += integer - real
        if _follows(units[index + 1 :], unit):
            continue
        if saved + _borders(units[: index + 1], inside, shapes) + max(allowed, 0.0) >= 0:
            end = index + 1
    return tuple(unit.name for unit in units[:end])


def _follows(later: Sequence[Unit], unit: Unit) -> bool:
    """Say whether a hard swish or a move reads a unit's result: those have no bytes of their own."""
    return any(other.kind in ("hardswish", "move") and other.inputs[0] is unit.result for other in later)


def _borders(units: Sequence[Unit], inside: Placement, shapes: Shapes) -> float:
    """Return what is saved at borders: inputs no longer put on bytes, less what now crosses into them."""
    found = 0.0
    for value in dict.fromkeys(value for unit in units for value in (*unit.inputs, unit.result)):
        size = prod(shapes.get(value.name or "", (1,)))
        readers = {usage.node in inside.by_node for usage in value.uses()}
        if value not in inside.by_value:
            found += QUANTIZE * size * (readers == {True})
        elif False in readers:
            found -= (QUANTIZE + REORDER) * size
        elif value.is_graph_output():
            found += DEQUANTIZE * size
    return found
