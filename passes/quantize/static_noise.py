"""What each rounding adds to a model's outputs: every grid alone, every weight alone, on some calibration samples.

Errors of roundings are nearly independent, so that those of a placement add up. A value is rounded where it is written
as bytes, for all its readers, or where it is read as bytes, for those readers alone: a residual sum in float keeps its
stream exact although the next block reads it in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context
from mopt.passes.quantize.calibration import Calibration
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.passes.quantize.static_constants import Constants
from mopt.passes.quantize.static_graph import BYTES, FLOAT
from mopt.passes.quantize.static_grids import Grid, grids
from mopt.passes.quantize.static_placement import Placement
from mopt.passes.quantize.static_rounding import Rounded
from mopt.passes.quantize.static_units import Unit
from mopt.passes.quantize.static_weights import QuantizedWeight, quantize_weight
from mopt.rewrite.constants import constant_array
from mopt.runtime.data.sample_fit import feeds_of
from mopt.runtime.ort import OrtRunner

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static
    from mopt.runtime.contract import Split

_WORK: Final = 3e9
"""Multiplications a probe may take: so many samples are run."""
_SAMPLES: Final = (2, 16)
"""The fewest and the most samples."""

Feeds = Sequence[Mapping[str, np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Noise:
    """Squared error of the outputs, relative to their power, that each rounding makes alone.

    Attributes:
        values: by the value on a grid, all its readers getting it rounded.
        reads: by value and reader, where there are several: this reader alone gets it rounded.
        weights: by the unit's name.
    """

    values: Mapping[ir.Value, float]
    reads: Mapping[tuple[ir.Value, str], float]
    weights: Mapping[str, float]


def noise(
    module: Module,
    placement: Placement,
    seen: Calibration,
    rounded: Mapping[str, Rounded],
    split: Split,
    options: Static,
    context: Context,
    *,
    macs: int,
) -> Noise:
    """Measure every rounding of a placement.

    Args:
        rounded: weights that were rounded otherwise than to the nearest, by unit.
        macs: of the model, for one sample.
    """
    found = grids(placement, seen.tensors, options)
    moved = {unit.result for unit in placement.units if unit.kind == "move"}
    written = [value for value in found if value not in moved]
    weighted = [unit for unit in placement.units if unit.weight is not None]
    feeds = _feeds(module, split, macs)
    expected = _outputs(module, feeds)
    values, reads, weights = {}, {}, {}
    with context.progress("measure sensitivity", len(written) + len(weighted)) as progress:
        for value in written:
            values[value] = _error(expected, _outputs(_on_grid(module, value.name or "", found[value]), feeds))
            readers = list(dict.fromkeys(usage.node for usage in value.uses()))
            if len(readers) + value.is_graph_output() > 1:
                for unit in dict.fromkeys(placement.by_node[node] for node in readers if node in placement.by_node):
                    alone = _on_grid(module, value.name or "", found[value], _names(unit))
                    reads[value, unit.name] = _error(expected, _outputs(alone, feeds))
            progress.advance()
        for unit in weighted:
            weight = _weight(unit, found, seen, rounded.get(unit.name), options)
            weights[unit.name] = _error(expected, _outputs(_with_weight(module, unit, weight), feeds))
            progress.advance()
    return Noise(values, reads, weights)


def _weight(
    unit: Unit, found: Mapping[ir.Value, Grid], seen: Calibration, rounded: Rounded | None, options: Static
) -> QuantizedWeight:
    source = unit.inputs[0]
    bias = constant_array(unit.node.inputs[2]) if unit.kind != "matmul" and len(unit.node.inputs) > 2 else None
    if rounded is not None:
        unit, bias = replace(unit, weight=rounded.weight), bias if rounded.bias is None else rounded.bias
    means = seen.tensors[source.name or ""].mean() if options.bias_correction else None
    return quantize_weight(unit, bias, found[source].scale, means, per_channel=options.per_channel)


def _names(unit: Unit) -> set[str | None]:
    return {node.name for node in (unit.node, *unit.folded)}


def _on_grid(module: Module, name: str, grid: Grid, readers: set[str | None] | None = None) -> Module:
    """Return a copy in which one value is rounded, for all or for some of the nodes that read it."""
    copy = module.clone()
    editor = Editor(copy, signed=True)
    value = next(
        value
        for value in (*copy.graph.inputs, *(out for node in copy.graph for out in node.outputs))
        if value.name == name
    )
    producer = value.producer()
    uses = [usage for usage in value.uses() if readers is None or usage.node.name in readers]
    scale = editor.constant(np.array(grid.scale, np.float32), "scale")
    zero = editor.constant(np.array(grid.seen, grid.dtype), "zero_point")
    dtype = BYTES[grid.dtype]
    q = editor._node("QuantizeLinear", [value, scale, zero], f"{name}_quantized", (dtype,), value.shape, None, "")
    real = editor._node(
        "DequantizeLinear", [q.outputs[0], scale, zero], f"{name}_dequantized", (FLOAT,), value.shape, None, ""
    )
    if producer is None:
        copy.graph.insert_before(next(iter(copy.graph)), [q, real])
    else:
        copy.graph.insert_after(producer, [q, real])
    for usage in uses:
        usage.node.replace_input_with(usage.idx, real.outputs[0])
    if value.is_graph_output() and readers is None:
        value.name, real.outputs[0].name = f"{name}_exact", name
        for index, output in enumerate(copy.graph.outputs):
            if output is value:
                copy.graph.outputs[index] = real.outputs[0]
    copy.touch()
    return copy


def _with_weight(module: Module, unit: Unit, weight: QuantizedWeight) -> Module:
    """Return a copy in which one weight is rounded, and its bias corrected."""
    copy = module.clone()
    node = next(node for node in copy.graph if node.name == unit.name)
    constants = Constants(copy)
    shape = [-1 if axis == weight.axis else 1 for axis in range(weight.values.ndim)]
    constants.replace(node, 1, weight.values * weight.scale.reshape(shape))
    if weight.bias is not None:
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            constants.replace(node, 2, weight.bias)
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, constants.add(weight.bias, f"{unit.name}_bias"))
    copy.touch()
    return copy


def _feeds(module: Module, split: Split, macs: int) -> Feeds:
    count = int(np.clip(_WORK / max(macs, 1), *_SAMPLES))
    found: list[Mapping[str, np.ndarray[Any, Any]]] = []
    for stacked in split.batches(1):
        found.append(feeds_of(stacked, tuple(module.inputs)))
        if len(found) == count:
            break
    return found


def _outputs(module: Module, feeds: Feeds) -> list[dict[str, Any]]:
    with OrtRunner(module) as runner:
        return [runner.run(sample) for sample in feeds]


def _error(expected: Sequence[Mapping[str, Any]], actual: Sequence[Mapping[str, Any]]) -> float:
    """Return the mean squared error of float outputs, each scaled by its own power, summed over outputs."""
    total = 0.0
    for wanted, given in zip(expected, actual, strict=True):
        for name, array in wanted.items():
            if array.dtype.kind == "f" and array.size:
                power = float(np.mean(np.square(array, dtype=np.float64))) or 1.0
                total += float(np.mean(np.square(given[name] - array, dtype=np.float64))) / power
    return total / max(len(expected), 1)
