"""Static quantisation of a module, from calibration to notes."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.passes.contract import Context, Note, PassError, PassResult
from mopt.passes.quantize import static_wide
from mopt.passes.quantize.calibration import Calibration, calibrate, open_split
from mopt.passes.quantize.codebooks import sees_codebooks
from mopt.passes.quantize.detect import first_quantized
from mopt.passes.quantize.preparation import left_in_float, raise_opset
from mopt.passes.quantize.static_bias import rounding_means
from mopt.passes.quantize.static_correction import before_calibration, with_weights
from mopt.passes.quantize.static_graph import Writer
from mopt.passes.quantize.static_grids import grids
from mopt.passes.quantize.static_placements import place_for, settled
from mopt.passes.quantize.static_rounding import Rounded, put, rounded_weights
from mopt.passes.quantize.static_sensitivity import Analysis, regrids, sensitive
from mopt.passes.quantize.static_stem import stem
from mopt.passes.quantize.static_stored import STORED, store
from mopt.passes.quantize.static_stored import notes as stored_notes
from mopt.passes.quantize.static_transposed import decompose
from mopt.passes.quantize.static_units import WEIGHTED, Unit, find_units

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static
    from mopt.runtime.contract import Split

OPSET: Final = 13
"""The first opset whose DequantizeLinear has an axis."""


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
    rewritten = _rewritten(module, options)
    split = open_split(module, options.data, context)
    corrected = before_calibration(module, options, split, context)
    units, left = find_units(module, regrid=regrids(options))
    kept = _kept(module, units, options)
    seen = calibrate(module, _observed(units), split, context, batch=options.batch, bins=options.method != "minmax")
    units = [unit for unit in units if all(_was_seen(seen, value) for value in (*unit.inputs, unit.result))]
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
    stored = store(module, [node for node in module.graph if _is_stored(node, options)], options)
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
    return PassResult(module, True, (*notes, *left_in_float(left), *_inner(module)))


def _rounded(
    module: Module, units: Sequence[Unit], split: Split, options: Static, context: Context
) -> Mapping[str, Rounded]:
    """Return the weights that are not rounded to the nearest."""
    if options.rounding == "nearest":
        return {}
    return rounded_weights(
        module, units, split, context, per_channel=options.per_channel, correct=options.bias_correction
    )


def _observed(units: Sequence[Unit]) -> dict[str, int | None]:
    """Return the values to watch, in topological order, with the channel axis of weighted units' inputs."""
    names: dict[str, int | None] = {}
    for unit in units:
        for value in unit.inputs:
            names.setdefault(value.name or "", None)
            if unit.kind in WEIGHTED:
                names[value.name or ""] = 1 if unit.kind == "conv" else -1
        names.setdefault(unit.result.name or "", None)
    return names


def _was_seen(seen: Calibration, value: ir.Value) -> bool:
    return bool(seen.tensors[value.name or ""].count)


def _kept(module: Module, units: Sequence[Unit], options: Static) -> set[str]:
    """Return the names of units that `keep` names.

    Raises:
        PassError: a pattern matches no node of the module.
    """
    nodes = list(module.nodes())
    for pattern in options.keep:
        if not any(_matches(node, pattern) for node in nodes):
            raise PassError(f'`keep=["{pattern}"]` matches no layer of the module', help="`mopt show` lists them")
    return {
        unit.name
        for unit in units
        if any(_matches(node, pattern) for node in (unit.node, *unit.folded[:1]) for pattern in options.keep)
    }


def _matches(node: ir.Node, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (*provenance.origins(node), node.name or ""))


def _is_stored(node: ir.Node, options: Static) -> bool:
    """Say whether a node's weights are kept in 8 bits although it runs in float."""
    return node.domain == "" and node.op_type in STORED and not any(_matches(node, pattern) for pattern in options.keep)


def _rewritten(module: Module, options: Static) -> list[Note]:
    """Give onnxruntime forms that it has integer kernels for."""
    if options.placement != "onnxruntime" or static_wide.is_wide(options):
        return []
    nodes = [node for node in module.graph if node.op_type == "ConvTranspose" and _is_stored(node, options)]
    notes = decompose(module, nodes)
    if notes:
        module.infer_shapes()
    return notes


def _inner(module: Module) -> list[Note]:
    """Say what is out of reach: nodes of inner graphs and functions, custom operators."""
    outer = set(module.graph)
    weighted = ("Conv", "MatMul", "Gemm", "ConvTranspose", "LSTM", "GRU")
    inner = tuple(
        node.name or "" for node in module.nodes(functions=True) if node not in outer and node.op_type in weighted
    )
    custom = tuple(node.name or "" for node in module.graph if node.domain not in ("", "ai.onnx"))
    notes = [Note(f"{len(inner)} nodes of inner graphs and functions left alone", nodes=inner)] if inner else []
    return notes + ([Note(f"{len(custom)} operators of other domains left alone", nodes=custom)] if custom else [])
