"""Recurrent operators: initial states that say what the default says."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import onnx_ir as ir
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View

_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
_HANDS_ON = (
    "Expand",
    "Tile",
    "Slice",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Identity",
    "Cast",
    "Gather",
    "Concat",
)


def is_zero(view: View, value: ir.Value | None, depth: int = 8) -> bool:
    """Say whether every element of a value is known to be zero, whatever its shape."""
    if value is None or not depth:
        return False
    constant = view.any_constant(value)
    if constant is not None:
        return constant.size <= 1 << 16 and constant.dtype.kind in "fiu" and not constant.any()
    node = view.producer(value)
    if node is None:
        return False
    if node.op_type == "ConstantOfShape":
        fill = node.attributes.get("value")
        return fill is None or not fill.as_tensor().numpy().any()
    if node.op_type == "Concat":
        return all(is_zero(view, part, depth - 1) for part in node.inputs)
    return node.op_type in _HANDS_ON and is_zero(view, node.inputs[0], depth - 1)


class DropZeroState(Rule):
    """Initial states of zeros → left out."""

    name = "drop-zero-state"
    anchors = ("LSTM", "GRU", "RNN")
    algebra = "LSTM(x, W, R, B, lengths, 0, 0) = LSTM(x, W, R, B, lengths)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        given = [
            index for index in _STATES[node.op_type] if index < len(node.inputs) and node.inputs[index] is not None
        ]
        if not given:
            return Miss("it has no initial state")
        zero = [index for index in given if is_zero(view, node.inputs[index])]
        if not zero:
            return Miss("its initial state is not known to be zero", 1)
        return {"node": node, "zero": zero}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        inputs = [None if index in bindings["zero"] else value for index, value in enumerate(node.inputs)]
        while inputs and inputs[-1] is None:
            inputs.pop()
        new = view.copy(node, inputs)
        return Replacement([node], dict(zip(node.outputs, new.outputs, strict=True)), [new])
