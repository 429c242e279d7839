"""What each input of a model is used for, read off the graph, so that made-up values are ones a user could feed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.ir.module import Module

Kind = Literal["real", "image", "positive", "integer", "index", "mask", "choice", "flag", "text"]

# Operators that hand values on unchanged, as far as their range goes.
_TRANSPARENT: Final = frozenset(
    {
        "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Expand", "Tile",
        "Concat", "Split", "CastLike", "Gather",
    }
)  # fmt: skip
_POSITIVE_ONLY: Final = frozenset({"Log", "Sqrt"})
_MASKING: Final = frozenset({"Where", "And", "Or", "Not"})
_STEPS: Final = 64


@dataclass(frozen=True)
class Role:
    """How to draw values for an input.

    Attributes:
        kind: `real` (normal), `image` (text on paper; `limit` is the axis of its channels), `positive`,
            `integer` (small), `index` (of a table with `limit` rows), `mask` (0/1),
            `choice` (the graph compares it with `limit`, which it therefore is), `flag` (bool), `text`.
        limit: rows of the smallest table an index looks into, or the value of a choice.
    """

    kind: Kind
    limit: int | None = None


def input_roles(module: Module) -> dict[str, Role]:
    """Return the role of every input of a module."""
    values = {value.name: value for value in module.graph.inputs}
    return {tensor.name: _role(values[tensor.name], tensor.dtype, tensor.shape) for tensor in module.inputs}


def _role(value: ir.Value, dtype: str, shape: Sequence[int | str | None]) -> Role:
    if dtype == "str":
        return Role("text")
    if dtype == "bool":
        return Role("flag")
    masklike = "mask" in (value.name or "").lower()
    if dtype.startswith(("f", "bf")):
        if masklike:
            return Role("mask")
        if _POSITIVE_ONLY & {node.op_type for node, _ in _consumers(value)}:
            return Role("positive")
        channels = _channels(shape)
        return Role("real") if channels is None else Role("image", channels)
    limits, compared, becomes_float = [], [], False
    for node, position in _consumers(value):
        if node.op_type == "Gather" and position == 1:
            limits.append(_rows(node.inputs[0], int(_attribute(node, "axis"))))
        elif node.op_type == "OneHot" and position == 0:
            limits.append(_scalar(node.inputs[1]))
        elif node.op_type == "Equal":
            compared.append(_scalar(node.inputs[1 - position]))
        becomes_float |= node.op_type in _MASKING or _casts_to_float(node)
    if rows := [limit for limit in limits if limit]:
        return Role("index", min(rows))
    if masklike or (becomes_float and not compared):
        return Role("mask")
    if choices := [choice for choice in compared if choice is not None]:
        return Role("choice", max(choices))
    return Role("integer")


def _channels(shape: Sequence[int | str | None]) -> int | None:
    """Return the axis of a picture's channels: four axes, one, three or four channels first or last."""
    if len(shape) != 4:
        return None
    return next((axis for axis in (1, 3) if shape[axis] in (1, 3, 4)), None)


def _consumers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Return (node, input position) for what uses a value, also through operators that hand it on."""
    queue, seen = deque([value]), {id(value)}
    found: list[tuple[ir.Node, int]] = []
    while queue and len(found) < _STEPS:
        for use in queue.popleft().uses():
            node, position = use
            found.append((node, position))
            if node.op_type in _TRANSPARENT and (position == 0 or node.op_type == "Concat"):
                for output in node.outputs:
                    if id(output) not in seen:
                        seen.add(id(output))
                        queue.append(output)
    return found


def _attribute(node: ir.Node, name: str, default: int = 0) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def _casts_to_float(node: ir.Node) -> bool:
    return node.op_type == "Cast" and _attribute(node, "to") in (1, 10, 11, 16)  # FLOAT, FLOAT16, DOUBLE, BFLOAT16


def _rows(table: ir.Value | None, axis: int) -> int | None:
    if table is None:
        return None
    constant = _constant(table)
    shape = table.shape if constant is None else constant.shape
    size = shape[axis] if shape is not None and len(shape) else None
    return size if isinstance(size, int) else None


def _scalar(value: ir.Value | None) -> int | None:
    constant = None if value is None else _constant(value)
    return int(constant.numpy().reshape(-1)[0]) if constant is not None and constant.size == 1 else None


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """Return the tensor behind an initializer, or behind Constant → Identity/Cast/Unsqueeze … chains."""
    for _ in range(8):
        if value.const_value is not None:
            return value.const_value
        node = value.producer()
        if node is None:
            return None
        if node.op_type == "Constant" and "value" in node.attributes:
            return node.attributes["value"].as_tensor()
        if node.op_type not in _TRANSPARENT or not node.inputs or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return None
