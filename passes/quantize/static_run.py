"""Static quantisation of a module, from calibration to notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassError, PassResult
from mopt.passes.quantize import static_wide
from mopt.passes.quantize.calibration import calibrate, open_split
from mopt.passes.quantize.codebooks import sees_codebooks
from mopt.passes.quantize.detect import first_quantized
from mopt.passes.quantize.preparation import left_in_float, raise_opset
from mopt.passes.quantize.static_bias import rounding_means
from mopt.passes.quantize.static_correction import before_calibration, with_weights
from mopt.passes.quantize.static_graph import Writer
from mopt.passes.quantize.static_grids import grids
from mopt.passes.quantize.static_placements import place_for, settled
from mopt.passes.quantize.static_rounding import Rounded, put, rounded_weights
from mopt.passes.quantize.static_scope import (
    OPSET,
    inner_notes,
    is_stored,
    kept_units,
    observed,
    rewritten_for,
    was_seen,
)
from mopt.passes.quantize.static_sensitivity import Analysis, regrids, sensitive
from mopt.passes.quantize.static_stem import stem
from mopt.passes.quantize.static_stored import notes as stored_notes
from mopt.passes.quantize.static_stored import store
from mopt.passes.quantize.static_units import Unit, find_units

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static
    from mopt.runtime.contract import Split


@sees_codebooks("quantize.static")
def quantize(module: Module, options: Static, context: Context) -> PassResult:
    """Quantise `module`. See `Static.run`."""
    static_wide.refuse_where_unknown(options)
    options = settled(options)
    quantized = first_quantized(module)
    if quantized is not None:
        raise PassError(
            f"the graph is quantised already: node `{quantized.name}` is a {quantized.op_type}",
            node=quantized.name,
            help="start the pipeline from the float model",
        )
    opset = static_wide.opset_for(options, OPSET)
    needs = f"DequantizeLinear has an axis from {OPSET} on" if opset == OPSET else f"16 bits are known from {opset} on"
    module, raised = raise_opset(module, context, opset, needs)
    module.infer_shapes()
    rewritten = rewritten_for(module, options)
    split = open_split(module, options.data, context)
    corrected = before_calibration(module, options, split, context)
    units, left = find_units(module, regrid=regrids(options))
    kept = kept_units(module, units, options)
    seen = calibrate(module, observed(units), split, context, batch=options.batch, bins=options.method != "minmax")
    units = [unit for unit in units if all(was_seen(seen, value) for value in (*unit.inputs, unit.result))]
    first = stem(units, seen.shapes) if options.placement == "onnxruntime" and not static_wide.is_wide(options) else ()
    first = tuple(name for name in first if name not in kept)
    by_hand, kept = kept, kept.union(first)
    placement = place_for(options, units, seen.shapes, kept)
    rounded = _rounded(module, placement.units, split, options, context)
    found = Analysis()
    if options.budget > 0:
        found = sensitive(module, units, kept, seen, rounded, split, options, context)
        placement = place_for(options, units, seen.shapes, kept | {item.unit for item in found.left})
    if options.rounding != "nearest":
        corrected.append(put(module, placement.units, rounded))
        chosen = {unit.name for unit in placement.units}
        units = with_weights(units)
        placement = place_for(options, units, seen.shapes, {unit.name for unit in units} - chosen)
    counts = Counter(unit.node.op_type for unit in placement.units)
    chosen = {unit.name for unit in placement.units}
    floats = [unit for unit in units if unit.name not in chosen and unit.name not in kept]
    errors = {}
    if options.activation_correction:
        errors = rounding_means(module, placement, grids(placement, seen.tensors, options), split, context)
    writer = Writer(module, placement, seen.tensors, options, errors)
    inputs = {unit.name: seen.tensors[unit.inputs[0].name or ""] for unit in units}
    read = {item.unit: inputs[item.unit] for item in found.left}
    writer.write()
    wide, wide_notes = static_wide.write_sensitive(module, read, options)
    stored = store(module, [node for node in module.graph if is_stored(node, options)], options)
    left = {**left, **stored.left}
    counts.update({operator: len(names) for (operator, _), names in stored.nodes.items()})
    if not counts:
        nothing = Note("nothing was quantised", severity="warning")
        return PassResult(module, bool(raised), (nothing, *left_in_float(left)))
    module.infer_shapes()
    listed = ", ".join(f"{count} {operator}" for operator, count in sorted(counts.items()))
    elements = writer.elements + wide + stored.elements
    notes = [Note(f"quantised {listed}: {elements:,} weights in 8 bits; calibrated on {seen.samples} samples")]
    notes += [*corrected, *static_wide.notes(options, placement), *wide_notes, *rewritten, *stored_notes(stored)]
    if raised:
        notes.append(Note(raised))
    if by_hand:
        notes.append(Note(f"{len(by_hand)} left in float by `keep`", nodes=tuple(sorted(by_hand))))
    if first:
        notes.append(Note(f"the first {len(first)} left in float, where they take hardly longer", nodes=first))
    in_wide = {name for note in wide_notes for name in note.nodes}
    if options.budget > 0 and not found.left:
        notes.append(
            Note(f"`budget={options.budget}` buys nothing: no run of layers takes away its share of the error for it")
        )
    if found.left:
        gained = f"{found.before:.1f} to {found.after:.1f} dB of signal to error predicted"
        notes.append(Note(f"{len(found.left)} sensitive: {gained} for {found.time:.0%} of the time that bytes save"))
    for item in found.left:
        where = "in 16 bits" if item.unit in in_wide else "left in float"
        said = f"{where} as sensitive: {item.share:.0%} of the error measured, {item.macs:.1%} of MACs"
        notes.append(Note(said, nodes=(item.unit,)))
    sensitive_names = {item.unit for item in found.left}
    cheap = tuple(unit.name for unit in floats if unit.name not in sensitive_names)
    if cheap:
        reason = "where bytes would not save time" if options.placement == "onnxruntime" else "for TensorRT to fuse"
        notes.append(Note(f"{len(cheap)} left in float {reason}", nodes=cheap))
    return PassResult(module, True, (*notes, *left_in_float(left), *inner_notes(module)))


def _rounded(
    module: Module, units: Sequence[Unit], split: Split, options: Static, context: Context
) -> Mapping[str, Rounded]:
    """Return the weights that are not rounded to the nearest."""
    if options.rounding == "nearest":
        return {}
    return rounded_weights(
        module, units, split, context, per_channel=options.per_channel, correct=options.bias_correction
    )
