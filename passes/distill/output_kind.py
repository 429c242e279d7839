"""Whether an output is probabilities already: whether a softmax stands before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mopt.ir import Module

_PASSES_ON: Final = frozenset({
    "Identity", "Cast", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "QuantizeLinear", "DequantizeLinear",
    "Dropout",
})  # fmt: skip


def output_kind(module: Module, name: str) -> str:
    """Return `probabilities` where an output comes from a softmax, else `logits` (log-probabilities are as good)."""
    value = next(value for value in module.graph.outputs if value.name == name)
    while (node := value.producer()) is not None:
        if node.op_type == "Softmax":
            return "probabilities"
        following = node.inputs[0] if node.op_type in _PASSES_ON and node.inputs else None
        if following is None:
            break
        value = following
    return "logits"
