"""Which inputs and outputs of a node may be float16, by the operator's own schema."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from mopt.passes.convert.half_types import FLOAT16, HalfType

_STANDARD = ("", "ai.onnx")

# Typed freely by the schema, but sampling positions lose whole pixels in half precision.
_SINGLE_INPUTS = {"Resize": frozenset({1, 2}), "Upsample": frozenset({1})}
# What the schema types by an attribute, or what the rewriter does not retype.
_FIXED = frozenset({"Bernoulli", "CastLike", "EyeLike", "Multinomial", "Optional", "SequenceMap"})
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
HALF_SCALES = 19
"""The first opset whose quantisers take scales in float16."""


@dataclass(frozen=True)
class Slots:
    """Indices of the inputs and outputs that become float16 where a node does."""

    inputs: frozenset[int]
    outputs: frozenset[int]

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)


NONE = Slots(frozenset(), frozenset())


def is_float32(value: ir.Value | None) -> bool:
    """Say whether a value is a float32 tensor."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


@functools.cache
def _schema(operator: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(operator, opset, "")
    except onnx.defs.SchemaError:
        return None


@functools.cache
def _allows_half(operator: str, opset: int, kind: str) -> tuple[tuple[bool, ...], tuple[bool, ...]] | None:
    """Return, for each formal input and output, whether a 16-bit type is allowed; None for an unknown operator."""
    schema = _schema(operator, opset)
    if schema is None:
        return None
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}

    def half(parameter: onnx.defs.OpSchema.FormalParameter) -> bool:
        return kind in allowed.get(parameter.type_str, (parameter.type_str,))

    return tuple(map(half, schema.inputs)), tuple(map(half, schema.outputs))


def known(node: ir.Node, opset: int) -> bool:
    """Say whether an operator is of the ONNX standard at this opset."""
    return node.domain in _STANDARD and _schema(node.op_type, opset) is not None


def slots(node: ir.Node, opset: int, *, scales: bool = False, kind: HalfType = FLOAT16) -> Slots:
    """Return the float32 inputs and outputs of a node that its operator also takes as `kind`.

    Args:
        scales: quantisers change, too, from the opset on that lets them.
    """
    if node.domain not in _STANDARD or node.op_type in _FIXED:
        return NONE
    if node.op_type in QUANTISERS and not (scales and opset >= HALF_SCALES):
        return NONE
    if any(_holds_floats_otherwise(value) for value in (*node.inputs, *node.outputs)):
        return NONE
    formal = _allows_half(node.op_type, opset, f"tensor({kind.name})")
    if formal is None:
        return NONE
    single = _SINGLE_INPUTS.get(node.op_type, frozenset())
    # The last formal parameter is the one that repeats, where one does.
    inputs = {
        index
        for index, value in enumerate(node.inputs)
        if index not in single and is_float32(value) and formal[0] and formal[0][min(index, len(formal[0]) - 1)]
    }
    outputs = {
        index
        for index, value in enumerate(node.outputs)
        if is_float32(value) and formal[1] and formal[1][min(index, len(formal[1]) - 1)]
    }
    return Slots(frozenset(inputs), frozenset(outputs))


def _holds_floats_otherwise(value: ir.Value | None) -> bool:
    """Say whether a value is a sequence, an optional or a sparse tensor, or of unknown type."""
    if value is None or (not value.name and not value.uses()):
        return False
    return not isinstance(value.type, ir.TensorType)
