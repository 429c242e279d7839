"""The graph that training starts from: what `quantize.static` would emit, with what is known of each of its grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassError
from mopt.passes.quantize.calibration import calibrate, open_split
from mopt.passes.quantize.calibration_histogram import Histogram
from mopt.passes.quantize.detect import first_quantized
from mopt.passes.quantize.preparation import left_in_float, raise_opset
from mopt.passes.quantize.static import Static
from mopt.passes.quantize.static_correction import before_calibration
from mopt.passes.quantize.static_graph import Writer
from mopt.passes.quantize.static_placements import place_for, settled
from mopt.passes.quantize.static_scope import (
    OPSET,
    inner_notes,
    is_stored,
    kept_units,
    observed,
    rewritten_for,
    was_seen,
)
from mopt.passes.quantize.static_sensitivity import regrids
from mopt.passes.quantize.static_stem import stem
from mopt.passes.quantize.static_stored import notes as stored_notes
from mopt.passes.quantize.static_stored import store
from mopt.passes.quantize.static_units import WEIGHTED, Unit, find_units
from mopt.passes.quantize.static_weights import output_axis
from mopt.runtime.contract import DataError
from mopt.runtime.data.splits import Slice
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.passes.quantize.aware import Aware

_INT4_OPSET: Final = 21
"""The first opset with 4-bit integers."""


@dataclass(frozen=True)
class GridWeight:
    """A weight on a grid of its own.

    Attributes:
        stored: the name of the integers.
        content: the float weight.
        axis: of its output channels.
        bits: of its grid.
        unit: the node that reads it.
    """

    stored: str
    content: NDArray[np.float32]
    axis: int
    bits: int
    unit: str


@dataclass(frozen=True)
class Start:
    """A graph on the grids that training starts from.

    Attributes:
        module: with QuantizeLinear and DequantizeLinear.
        options: of the `quantize.static` that it is like.
        units: what was quantised, in topological order.
        values: the output of the node before each QuantizeLinear → what calibration saw of it.
        moved: such values that are what another one was moved to.
        bits: such values → bits of their grids.
        weights: by the node that reads them.
        notes: what to say.
    """

    module: Module
    options: Static
    units: tuple[Unit, ...]
    values: Mapping[ir.Value, Histogram]
    moved: Mapping[ir.Value, ir.Value]
    bits: Mapping[ir.Value, int]
    weights: Mapping[str, GridWeight]
    notes: tuple[Note, ...]


def prepare(module: Module, options: Aware, context: Context) -> Start:
    """Fold, calibrate, place, and write the start of training; `module` is changed in place.

    Raises:
        PassError: see `Aware.run`.
    """
    static = settled(
        Static(
            options.data, method=options.calibration, keep=options.keep, per_channel=options.per_channel,
            placement=options.placement, bias_correction=False, equalize=options.equalize,
        )
    )  # fmt: skip
    quantized = first_quantized(module)
    if quantized is not None:
        raise PassError(
            f"the graph is quantised already: node `{quantized.name}` is a {quantized.op_type}",
            node=quantized.name,
            help="start from the float model; `tune` trains a quantised graph on the grids that it has",
        )
    packed = options.storage == "int4"
    opset = _INT4_OPSET if packed else OPSET
    reason = "4-bit integers are known from 21 on" if packed else f"DequantizeLinear has an axis from {OPSET} on"
    module, raised = raise_opset(module, context, opset, reason)
    module.infer_shapes()
    notes = _folded(module)
    notes += rewritten_for(module, static)
    whole = open_split(module, options.data, context)
    split = Slice(whole, 0, min(options.samples, len(whole)))
    notes += before_calibration(module, static, split, context)
    narrow = options.activations < 8
    units, left = find_units(module, regrid=regrids(static) and not narrow)
    kept = kept_units(module, units, static)
    seen = calibrate(module, observed(units), split, context, batch=1, bins=options.calibration != "minmax")
    units = [unit for unit in units if all(was_seen(seen, value) for value in (*unit.inputs, unit.result))]
    full = options.weights == 8 and not narrow and options.placement == "onnxruntime"
    first = tuple(name for name in stem(units, seen.shapes) if name not in kept) if full else ()
    placement = place_for(static, units, seen.shapes, kept.union(first))
    chosen = tuple(placement.units)
    if not any(unit.kind in WEIGHTED for unit in chosen):
        raise PassError(
            "there is nothing to quantise: no convolution or product with constant weights is left",
            help="look at `keep`, and at the notes of `quantize.static` on this graph",
        )
    histograms = {value: seen.tensors[value.name or ""] for unit in units for value in (*unit.inputs, unit.result)}
    contents = {unit.name: unit.weight for unit in chosen if unit.weight is not None}
    Writer(module, placement, seen.tensors, static).write()
    stored = store(module, [node for node in module.graph if is_stored(node, static)], static)
    module.infer_shapes()
    values, moved = _values(chosen, histograms)
    bits = _bits(chosen, moved, values, options)
    weights = {
        unit.name: _weight(unit, contents[unit.name], options, _edge(chosen, unit))
        for unit in chosen
        if unit.name in contents
    }
    notes += [*stored_notes(stored), *([Note(raised)] if raised else [])]
    if kept:
        notes.append(Note(f"{len(kept)} left in float by `keep`", nodes=tuple(sorted(kept))))
    if first:
        notes.append(Note(f"the first {len(first)} left in float, where they take hardly longer", nodes=first))
    notes += [*left_in_float({**left, **stored.left}), *inner_notes(module)]
    return Start(module, static, chosen, values, moved, bits, weights, tuple(notes))


def _folded(module: Module) -> list[Note]:
    """Fold batch normalisations into the weights beside them: what is trained is then what is rounded."""
    from mopt.passes.simplify.selection import select
    from mopt.rewrite import apply_rules

    before = _normalisations(module)
    if not before:
        return []
    apply_rules(module, select(("fold-affine", "absorb-affine"), ()), by="quantize.aware")
    module.infer_shapes()
    after = _normalisations(module)
    notes = [Note(f"{before - after} batch normalisations folded into weights")] if before > after else []
    return [*notes, *([Note(f"{after} batch normalisations stand beside no weight they fold into")] if after else [])]


def _normalisations(module: Module) -> int:
    return sum(node.op_type == "BatchNormalization" for node in module.nodes())


def _values(
    units: tuple[Unit, ...], histograms: Mapping[ir.Value, Histogram]
) -> tuple[dict[ir.Value, Histogram], dict[ir.Value, ir.Value]]:
    """Return what QuantizeLinear nodes read, with its histogram, and which of it was only moved from where."""
    values: dict[ir.Value, Histogram] = {}
    moved: dict[ir.Value, ir.Value] = {}
    before = {unit.result: unit.output for unit in units}
    for unit in units:
        for value in unit.inputs:
            if value not in before:
                values[value] = histograms[value]
        values[unit.output] = histograms[unit.result] if unit.result in histograms else histograms[unit.output]
        if unit.kind == "move":
            moved[unit.output] = before.get(unit.inputs[0], unit.inputs[0])
    return values, moved


def _bits(
    units: tuple[Unit, ...], moved: Mapping[ir.Value, ir.Value], values: Mapping[ir.Value, Any], options: Aware
) -> dict[ir.Value, int]:
    """Return the bits of each value: few where a weighted unit reads it, if only behind a move; else 8."""
    before = {unit.result: unit.output for unit in units}
    found = dict.fromkeys(values, 8)
    for unit in units:
        if unit.kind not in WEIGHTED:
            continue
        least = options.edges if _edge(units, unit) else 2
        value = before.get(unit.inputs[0], unit.inputs[0])
        chain = [value]
        while chain[-1] in moved:
            chain.append(moved[chain[-1]])
        for value in chain:
            found[value] = min(found[value], max(options.activations, least))
    for value, source in moved.items():
        found[value] = found[source]
    return found


def _edge(units: tuple[Unit, ...], unit: Unit) -> bool:
    weighted = [other for other in units if other.kind in WEIGHTED]
    return unit is weighted[0] or unit is weighted[-1]


def _weight(unit: Unit, content: NDArray[Any], options: Aware, edge: bool) -> GridWeight:
    reader = unit.node.inputs[1]
    real = None if reader is None else reader.producer()
    if real is None or real.inputs[0] is None:
        raise DataError(f"the weight of node `{unit.name}` is not on a grid")
    bits = max(options.weights, options.edges) if edge else options.weights
    return GridWeight(real.inputs[0].name or "", content, output_axis(unit), bits, unit.name)
