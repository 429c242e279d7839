"""Reading a node as y = scale · x + shift per channel, and writing weights back.

Batch normalisation at inference and arithmetic with per-channel or scalar constants are all such maps; linear
operators on either side absorb them into their weights. Arithmetic is done in float64 and rounded once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.rewrite import Miss, Replacement, View
from mopt.rewrite.attributes import integer, real
from mopt.rewrite.constants import Array

ARITHMETIC: Final = ("Mul", "Div", "Add", "Sub", "Neg")
_WRITTEN_OUT: Final = 16 << 10
"""Bytes up to which a folded constant of one repeated value is written out."""


@dataclass(frozen=True)
class Affine:
    """`output = scale * input + shift` along `axis`; both are float64, of one element or one per channel."""

    input: ir.Value
    scale: Array
    shift: Array
    axis: int

    @property
    def keeps_zero(self) -> bool:
        """Whether the shift is zero."""
        return not self.shift.any()


def read_affine(view: View, node: ir.Node, *, channel: int = 1, rank: int | None = None) -> Affine | Miss:
    """Read a BatchNormalization or an arithmetic node with one constant operand as a per-channel affine map.

    Args:
        view: the index to read constants and shapes from.
        node: the node.
        channel: the axis along which constants may vary; -1 for the last.
        rank: the rank of the input, where the view may not know it.
    """
    if node.op_type == "BatchNormalization":
        return _batch_normalisation(view, node)
    dtype = next((known for known in map(view.dtype, node.inputs) if known is not None), None)
    if dtype is not None and not dtype.is_floating_point():
        return Miss("it is integer arithmetic", 1)
    if node.op_type == "Neg":
        source = node.inputs[0]
        return Affine(source, -np.ones(1), np.zeros(1), channel) if source is not None else Miss("it has no input")
    for index in (1, 0):
        constant, other = view.any_constant(node.inputs[index]), node.inputs[1 - index]
        if constant is None or other is None or view.any_constant(other) is not None:
            continue
        if constant.dtype.kind != "f":
            return Miss("the constant is no floating-point number", 1)
        if node.op_type == "Div" and index == 0:
            return Miss("it divides a constant by the value", 1)
        vector = per_channel(constant, rank or view.rank(other), channel)
        if vector is None:
            return Miss(f"the constant of shape {list(constant.shape)} does not vary along the channels alone", 2)
        zero, one = np.zeros(1), np.ones(1)
        if node.op_type == "Mul":
            return Affine(other, vector, zero, channel)
        if node.op_type == "Div":
            if not vector.all():
                return Miss("it divides by zero", 2)
            return Affine(other, 1.0 / vector, zero, channel)
        if node.op_type == "Add":
            return Affine(other, one, vector, channel)
        return Affine(other, one, -vector, channel) if index == 1 else Affine(other, -one, vector, channel)
    return Miss("neither operand is constant")


def per_channel(constant: Array, rank: int | None, channel: int) -> Array | None:
    """Return a constant as one element or one per channel (float64); None if it varies along other axes."""
    if constant.size == 1 and (rank is None or constant.ndim <= rank):
        return constant.reshape(1).astype(np.float64)
    if rank is None or constant.ndim > rank:
        return None
    axis = channel % rank
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if any(size != 1 for position, size in enumerate(shape) if position != axis):
        return None
    return constant.reshape(-1).astype(np.float64)


def _batch_normalisation(view: View, node: ir.Node) -> Affine | Miss:
    if integer(node, "training_mode", 0):
        return Miss("it runs in training mode", 1)
    used = [output for output in node.outputs[1:] if output.uses() or output.is_graph_output()]
    if used or node.inputs[0] is None:
        return Miss("its running statistics are used", 1)
    parameters = [view.any_constant(value) for value in node.inputs[1:5]]
    known = [array.astype(np.float64) for array in parameters if array is not None]
    if len(known) != 4:
        return Miss("its parameters are not constant", 1)
    gamma, beta, mean, variance = known
    scale = gamma / np.sqrt(variance + real(node, "epsilon", 1e-5))
    if not np.all(np.isfinite(scale)):
        return Miss("its variance makes it divide by zero", 2)
    return Affine(node.inputs[0], scale, beta - mean * scale, 1)


def constant_value(
    view: View, base: str, array: Array, dtype: np.dtype[np.generic], *, compressed: bool
) -> tuple[ir.Value, list[ir.Node], list[ir.Value]]:
    """Return a new constant with the nodes and initializers it takes.

    Where the constants it was computed from were compressed and all its elements are equal, it is one, too.
    """
    array = array.astype(dtype)
    if compressed and array.nbytes > _WRITTEN_OUT and bool(np.all(array == array.reshape(-1)[0])):
        sizes = view.initializer(f"{base}_sizes", np.array(array.shape, np.int64))
        fill = ir.tensor(array.reshape(-1)[:1].copy(), name=f"{base}_fill")
        node = view.node("ConstantOfShape", [sizes], {"value": fill})
        return node.outputs[0], [node], [sizes]
    value = view.initializer(base, array)
    return value, [], [value]


def growth(view: View, weight: ir.Value, array: Array, compressed: bool) -> str | None:
    """Say by how much a new weight would enlarge the file, if that is more than allowed; else None."""
    if not compressed and len(weight.uses()) == 1:
        return None
    if compressed and array.size and bool(np.all(array == array.reshape(-1)[0])):
        return None
    size = array.size * 4
    if size <= max(view.max_growth, _WRITTEN_OUT):
        return None
    return f"its weight is shared or compressed: a changed copy would take {size} bytes"


def along(vector: Array, axis: int, rank: int) -> Array:
    """Shape a vector so that it lies along one axis of a tensor of the given rank."""
    return vector.reshape([-1 if position == axis else 1 for position in range(rank)])


def relinked(
    view: View,
    linear: ir.Node,
    output: ir.Value,
    weight: Array | None,
    bias: Array | None,
    removed: list[ir.Node],
    source: ir.Value | None,
    compressed: bool,
    attributes: dict[str, Any] | None = None,
) -> Replacement:
    """Return `linear` with another weight, bias or input (None: as they are) in the place of `output`."""
    old_weight = linear.inputs[1]
    stored = view.any_constant(old_weight)
    assert stored is not None and old_weight is not None
    inputs: list[ir.Value | None] = [source, *linear.inputs[1:]]
    added: list[ir.Node] = []
    constants: list[ir.Value] = []
    for index, array, base in ((1, weight, old_weight.name), (2, bias, None)):
        if array is None:
            continue
        held = linear.inputs[index] if index < len(linear.inputs) else None
        name = base or (held.name if held is not None else f"{linear.name or output.name}_bias")
        value, nodes, initializers = constant_value(view, f"{name}_folded", array, stored.dtype, compressed=compressed)
        inputs[index:] = [value, *inputs[index + 1 :]]
        added += nodes
        constants += initializers
    new = view.copy(linear, inputs, attributes)
    return Replacement(removed, {output: new.outputs[0]}, [*added, new], constants)
