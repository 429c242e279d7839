"""Where bytes begin: how far from its inputs a network stays float because onnxruntime runs it as fast.

The first convolutions read few channels at full resolution. An integer convolution gathers each tap of its kernel by
itself, which few channels do not pay for, while a float one keeps 16 channels in a register: three channels of an
image take two to four times as long on bytes. Those are also the layers whose wide ranges bytes hold worst, so that
the longest start that costs no time is left in float, unless its weights would make the file larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

from mopt.passes.quantize.static_placement import _COST, DEQUANTIZE, QUANTIZE, Placement
from mopt.passes.quantize.static_units import Unit

_SHARE: Final = 0.005
"""Weights that may stay float so, of all weights of units: three bytes each is what the file grows by."""
_REORDER: Final = 0.17
"""Nanoseconds an element to leave the blocked layout that float convolutions use; the same to enter it again."""

Shapes = Mapping[str, tuple[int, ...]]


def stem(units: Sequence[Unit], shapes: Shapes) -> tuple[str, ...]:
    """Return the names of the units, in topological order, that stay float at the start of the network.

    Costs are of one thread of a processor with AVX-512 VNNI, onnxruntime 1.31; constants, so that the result does
    not depend on the machine.

    Args:
        units: all that can be quantised, in topological order.
        shapes: of the values, as calibration saw them.
    """
    weights = sum(unit.weight.size for unit in units if unit.weight is not None)
    inside = Placement(())
    saved, held, end = 0.0, 0, 0
    for index, unit in enumerate(units):
        held += 0 if unit.weight is None else unit.weight.size
        if held > _SHARE * weights:
            break
        for node in (unit.node, *unit.folded):
            inside.by_node[node] = unit
        inside.by_value[unit.result] = unit
        real, integer = _costs(unit, shapes)
        saved += integer - real
        if not _follows(units[index + 1 :], unit) and saved + _borders(units[: index + 1], inside, shapes) >= 0:
            end = index + 1
    return tuple(unit.name for unit in units[:end])


def _follows(later: Sequence[Unit], unit: Unit) -> bool:
    """Say whether a hard swish or a move reads a unit's result: those have no bytes of their own."""
    return any(other.kind in ("hardswish", "move") and other.inputs[0] is unit.result for other in later)


def _costs(unit: Unit, shapes: Shapes) -> tuple[float, float]:
    """Return the nanoseconds that a unit takes in float and on bytes."""
    size = prod(shapes.get(unit.result.name or "", (1,)))
    if unit.kind != "conv":
        real, integer = _COST.get("HardSigmoid" if unit.kind == "hardswish" else unit.node.op_type, (0.01, 0.01))
        outside = 0.0 if unit.kind in ("hardswish", "pool", "move") and unit.shifted is None else 2 * _REORDER
        return (real + outside) * size, integer * size
    real, integer = _convolution(unit, shapes, size)
    if unit.shifted is not None:
        real += (2 * _REORDER + _COST["Add"][0]) * size
    return real, integer


def _convolution(unit: Unit, shapes: Shapes, size: int) -> tuple[float, float]:
    assert unit.weight is not None
    outputs, per_group, *kernel = unit.weight.shape
    taps = prod(kernel)
    macs, pixels = size * per_group * taps, size / outputs
    if per_group == 1 and "group" in unit.node.attributes and unit.node.attributes["group"].as_int() > 1:
        return 0.0135 * macs, pixels * taps * (0.7 + 0.0155 * outputs)
    gather = 0.0 if taps == 1 else (2.0 if taps <= 9 else 0.8)
    return 0.0082 * macs, gather * pixels * taps + 0.0021 * macs + 0.05 * size


def _borders(units: Sequence[Unit], inside: Placement, shapes: Shapes) -> float:
    """Return what is saved at borders: inputs no longer put on bytes, less what now crosses into them."""
    found = 0.0
    for value in dict.fromkeys(value for unit in units for value in (*unit.inputs, unit.result)):
        size = prod(shapes.get(value.name or "", (1,)))
        readers = {usage.node in inside.by_node for usage in value.uses()}
        if value not in inside.by_value:
            found += QUANTIZE * size * (readers == {True})
        elif False in readers:
            found -= (QUANTIZE + _REORDER) * size
        elif value.is_graph_output():
            found += DEQUANTIZE * size
    return found
