"""Contents of small integer tensors: the arithmetic on shapes that exporters leave in a graph."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.rewrite.attributes import integer, integers, tensor
from mopt.rewrite.constants import constant_array
from mopt.rewrite.symbol import Expr, Size, add, exact_quotient, floor_quotient, multiply, product, subtract
from mopt.rewrite.symbolic import Content, ContentHandler, Symbolic, as_content
from mopt.rewrite.symbolic_layout import axes_of, slice_bounds


def _vector(items: list[Size] | tuple[Size, ...], shape: tuple[int, ...] | None = None) -> Content:
    content = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        content[index] = item
    return content if shape is None else content.reshape(shape)


def _shape(symbolic: Symbolic, node: ir.Node) -> Content | None:
    shape = symbolic.shape(node.inputs[0])
    if shape is None:
        return None
    end = integer(node, "end", 0) if "end" in node.attributes else None
    return _vector(shape[integer(node, "start", 0) : end])


def _size(symbolic: Symbolic, node: ir.Node) -> Content | None:
    shape = symbolic.shape(node.inputs[0])
    return None if shape is None else _vector([product(shape)], ())


def _gather(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data, indices = symbolic.content(node.inputs[0]), constant_array(node.inputs[1])
    if data is None or indices is None or not data.ndim:
        return None
    axis = integer(node, "axis", 0)
    try:
        return np.asarray(np.take(data, indices.astype(np.int64), axis=axis), dtype=object)
    except IndexError:
        return None


def _slice(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data, bounds = symbolic.content(node.inputs[0]), slice_bounds(symbolic, node)
    if data is None or bounds is None:
        return None
    for axis, start, end, step in bounds:
        if not isinstance(start, int) or not isinstance(end, int):
            return None
        stop = None if step < 0 and end < -(1 << 30) else end
        data = data[(slice(None),) * axis + (slice(start, stop, step),)]
    return data


def _concat(symbolic: Symbolic, node: ir.Node) -> Content | None:
    parts: list[Content] = []
    for value in node.inputs:
        part = symbolic.content(value)
        if part is None or not part.ndim:
            return None
        parts.append(part)
    return np.concatenate(parts, axis=integer(node, "axis", 0))


def _unsqueeze(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data, axes = symbolic.content(node.inputs[0]), axes_of(symbolic, node)
    return None if data is None or axes is None else np.expand_dims(data, tuple(axes))


def _squeeze(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data, axes = symbolic.content(node.inputs[0]), axes_of(symbolic, node)
    if data is None or (axes is None and len(node.inputs) > 1):
        return None
    try:
        return np.squeeze(data, None if axes is None else tuple(axes))
    except ValueError:
        return None


def _reshape(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data, target = symbolic.content(node.inputs[0]), symbolic.numbers(node.inputs[1])
    if data is None or target is None or 0 in target:
        return None
    try:
        return data.reshape(target)
    except ValueError:
        return None


def _transpose(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data = symbolic.content(node.inputs[0])
    return None if data is None else np.transpose(data, integers(node, "perm"))


def _cast(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data = symbolic.content(node.inputs[0])
    target = integer(node, "to", 0)
    if data is None or target in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.FLOAT, ir.DataType.DOUBLE):
        return data
    if target != ir.DataType.BOOL or not all(isinstance(item, int) for item in data.flat):
        return None
    return as_content(np.asarray(data != 0))


def _same(symbolic: Symbolic, node: ir.Node) -> Content | None:
    return symbolic.content(node.inputs[0])


def _divide(symbolic: Symbolic, node: ir.Node, a: Size, b: Size) -> Size | None:
    exact = exact_quotient(a, b)
    if exact is not None:
        return exact
    whole = symbolic.dtype(node.inputs[0]) in (ir.DataType.INT64, ir.DataType.INT32)
    # ONNX truncates towards zero; floor is the same only where nothing can be negative.
    if not whole or not isinstance(b, int) or b <= 0:
        return None
    terms = a.terms.values() if isinstance(a, Expr) else (a,)
    return floor_quotient(a, b) if all(value >= 0 for value in terms) else None


def _arithmetic(symbolic: Symbolic, node: ir.Node) -> Content | None:
    left, right = (symbolic.content(value) for value in node.inputs[:2])
    if left is None or right is None:
        return None
    try:
        left, right = np.broadcast_arrays(left, right)
    except ValueError:
        return None
    items: list[Size] = []
    for a, b in zip(left.flat, right.flat, strict=True):
        result = _divide(symbolic, node, a, b) if node.op_type == "Div" else _EXACT[node.op_type](a, b)
        if result is None:
            return None
        items.append(result)
    return _vector(items, left.shape)


_EXACT: Final = {"Add": add, "Sub": subtract, "Mul": multiply}


def _compare(symbolic: Symbolic, node: ir.Node) -> Content | None:
    left, right = (symbolic.content(value) for value in node.inputs[:2])
    if left is None or right is None:
        return None
    left, right = np.broadcast_arrays(left, right)
    items: list[Size] = []
    for a, b in zip(left.flat, right.flat, strict=True):
        verdict = _verdict(node.op_type, a, b)
        if verdict is None:
            return None
        items.append(int(verdict))
    return _vector(items, left.shape)


def _verdict(operator: str, a: Size, b: Size) -> bool | None:
    gap = subtract(a, b)
    if isinstance(gap, int):
        return {"Equal": gap == 0, "Less": gap < 0, "Greater": gap > 0, "LessOrEqual": gap <= 0}.get(operator, gap >= 0)
    return None


def _not(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data = symbolic.numbers(node.inputs[0])
    shape = symbolic.content(node.inputs[0])
    return None if data is None or shape is None else _vector([int(not item) for item in data], shape.shape)


def _where(symbolic: Symbolic, node: ir.Node) -> Content | None:
    parts = [symbolic.content(value) for value in node.inputs]
    if any(part is None for part in parts) or symbolic.numbers(node.inputs[0]) is None:
        return None
    condition, yes, no = np.broadcast_arrays(*[part for part in parts if part is not None])
    items = [a if flag else b for flag, a, b in zip(condition.flat, yes.flat, no.flat, strict=True)]
    return _vector(items, condition.shape)


def _filled(symbolic: Symbolic, node: ir.Node) -> Content | None:
    sizes = symbolic.numbers(node.inputs[0])
    held = tensor(node, "value")
    fill: Any = np.zeros(1, np.float32) if held is None else held.numpy()
    if sizes is None or product([*sizes]) not in range(65):
        return None
    return as_content(np.broadcast_to(fill.reshape(1), sizes))


def _range(symbolic: Symbolic, node: ir.Node) -> Content | None:
    parts = [symbolic.numbers(value) for value in node.inputs]
    if any(part is None or len(part) != 1 for part in parts):
        return None
    start, limit, step = (part[0] for part in parts if part)
    if not step or len(range(start, limit, step)) > 64:
        return None
    return _vector(list(range(start, limit, step)))


def _reduce_prod(symbolic: Symbolic, node: ir.Node) -> Content | None:
    data = symbolic.content(node.inputs[0])
    axes = axes_of(symbolic, node)
    if data is None or data.ndim != 1 or (axes is not None and axes not in ([0], [-1])):
        return None
    return _vector([product(list(data.flat))], (1,) if integer(node, "keepdims", 1) else ())


CONTENTS: Final[dict[str, ContentHandler]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Cast": _cast,
    "Identity": _same,
    "Floor": _same,
    "Ceil": _same,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    **dict.fromkeys(("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"), _compare),
    "Not": _not,
    "Where": _where,
    "ConstantOfShape": _filled,
    "Range": _range,
    "ReduceProd": _reduce_prod,
}
"""Operator → the content of its first output. Every content is whole numbers, whatever the element type."""
