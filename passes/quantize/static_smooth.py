"""SmoothQuant: outlier channels of a product's input moved into its weights, the rest of the network kept equal.

Xiao et al. 2022 (arXiv:2211.10438): x W = (x s⁻¹)(s W). What makes x absorbs the scale: a normalisation's gain and
offset, or a constant factor. Other readers of x, a residual sum say, get it back through a multiplication.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.passes.contract import Context, Note
from mopt.passes.quantize.static_constants import Constants
from mopt.passes.quantize.static_migration import Reader, choose
from mopt.passes.quantize.static_observe import ChannelStatistics, observe
from mopt.rewrite.constants import constant_array
from mopt.runtime.contract import Split
from numpy.typing import NDArray

Reals = NDArray[np.float64]
BY = "quantize.static"


@dataclass(frozen=True)
class Source:
    """A value whose last axis can be scaled where it is made.

    Attributes:
        value: what products read.
        factors: (node, index of a constant input) to be multiplied.
        products: MatMul nodes that read the value.
        others: further uses, which want it as it was.
    """

    value: ir.Value
    factors: tuple[tuple[ir.Node, int], ...]
    products: tuple[ir.Node, ...]
    others: tuple[tuple[ir.Node, int], ...]


def smooth(module: Module, split: Split, context: Context) -> list[Note]:
    """Move scales from activations into the weights of products, in place; return what to say of it."""
    sources = [found for node in module.graph if (found := _source(node)) is not None]
    if not sources:
        return [Note("`smooth`: no product reads a normalisation's or a constant factor's result")]
    statistics = {source.value.name or "": ChannelStatistics(-1) for source in sources}

    def visit(arrays: Any) -> None:
        for name, array in arrays.items():
            statistics[name].add(array)

    observe(module, list(statistics), split, context, label="measure channels", visit=visit)
    constants, moved, restored = Constants(module), 0, 0
    for source in sources:
        seen = statistics[source.value.name or ""]
        weights = [_weight(node) for node in source.products]
        readers = [Reader(weight.T.astype(np.float64)[None, :, :, None]) for weight in weights]
        scale, strength = choose(seen.peak, seen.power, readers, ceiling=None)
        if not strength:
            continue
        moved += 1
        restored += bool(source.others)
        for node, index in source.factors:
            _multiply(node, index, scale, constants)
        for node, weight in zip(source.products, weights, strict=True):
            constants.replace(node, 1, weight / scale[:, None])
        if source.others:
            _restore(source, scale, constants)
    module.touch()
    rest = f", given back to other readers of {restored}" if restored else ""
    return [Note(f"moved channels' ranges of {moved} of {len(sources)} tensors into products{rest}")]


def _weight(node: ir.Node) -> NDArray[Any]:
    array = constant_array(node.inputs[1])
    assert array is not None
    return array


def _source(node: ir.Node) -> Source | None:
    """Match a node whose result a product reads and whose constants can take a scale."""
    if node.domain != "" or not node.outputs or node.outputs[0].is_graph_output():
        return None
    value = node.outputs[0]
    uses = value.uses()
    products = tuple(usage.node for usage in uses if usage.idx == 0 and _is_product(usage.node))
    if not products or any(usage.node.graph is not node.graph for usage in uses):
        return None
    width = _weight(products[0]).shape[0]
    factors = _factors(node, width)
    others = tuple((usage.node, usage.idx) for usage in uses if usage.node not in products)
    return None if factors is None else Source(value, factors, tuple(dict.fromkeys(products)), others)


def _is_product(node: ir.Node) -> bool:
    if node.domain != "" or node.op_type != "MatMul":
        return False
    array = constant_array(node.inputs[1])
    value = node.inputs[1]
    return array is not None and array.ndim == 2 and array.dtype == np.float32 and len(value.uses()) == 1  # type: ignore[union-attr]


def _factors(node: ir.Node, width: int) -> tuple[tuple[ir.Node, int], ...] | None:
    """Return the constants that scale a node's result along its last axis of `width`; None where there are none."""
    if node.op_type == "LayerNormalization":
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        indices = [index for index in (1, 2) if len(node.inputs) > index and node.inputs[index] is not None]
        if axis in (-1, _rank(node) - 1) and all(_is_vector(node.inputs[index], width) for index in indices):
            return tuple((node, index) for index in indices)
    if node.op_type == "Mul":
        index = _constant_side(node, width)
        return None if index is None else ((node, index),)
    if node.op_type == "Add":  # an offset behind a gain
        index = _constant_side(node, width)
        inner = None if index is None else node.inputs[1 - index]
        gain = None if inner is None else inner.producer()
        if index is None or inner is None or gain is None or gain.domain != "" or len(inner.uses()) != 1:
            return None
        side = _constant_side(gain, width) if gain.op_type == "Mul" and not inner.is_graph_output() else None
        return None if side is None else ((node, index), (gain, side))
    return None


def _rank(node: ir.Node) -> int:
    shape = node.outputs[0].shape or (node.inputs[0].shape if node.inputs[0] is not None else None)
    return 0 if shape is None else len(shape)


def _is_vector(value: ir.Value | None, width: int) -> bool:
    array = constant_array(value)
    return array is not None and array.dtype == np.float32 and array.shape == (width,)


def _constant_side(node: ir.Node, width: int) -> int | None:
    """Return which operand is a constant that is one number, or one for each place of the last axis."""
    for index, value in enumerate(node.inputs[:2]):
        array = constant_array(value)
        if array is not None and array.dtype == np.float32 and (array.size == 1 or _spans(array, width)):
            return index if _keeps_width(node.inputs[1 - index], width) else None
    return None


def _spans(array: NDArray[Any], width: int) -> bool:
    return array.ndim > 0 and array.shape[-1] == width == array.size


def _keeps_width(value: ir.Value | None, width: int) -> bool:
    return value is not None and value.shape is not None and len(value.shape) > 1 and value.shape[-1] == width


def _multiply(node: ir.Node, index: int, scale: Reals, constants: Constants) -> None:
    array = constant_array(node.inputs[index])
    assert array is not None
    constants.replace(node, index, array.reshape(-1) * scale)


def _restore(source: Source, scale: Reals, constants: Constants) -> None:
    made = source.value.producer()
    assert made is not None and made.graph is not None
    factor = constants.add((1 / scale).astype(np.float32), f"{source.value.name}_unsmooth_factor")
    back = constants.node("Mul", [source.value, factor], f"{source.value.name}_unsmoothed")
    back.outputs[0].type, back.outputs[0].shape = source.value.type, source.value.shape
    made.graph.insert_after(made, [back])
    provenance.inherit([back], [made], BY)
    for node, index in source.others:
        node.replace_input_with(index, back.outputs[0])
