"""Along which axis of a weight the products that read it sum."""

from __future__ import annotations

import onnx_ir as ir

_SAME = frozenset({"Identity", "Cast"})


def reduction_axis(value: ir.Value, rank: int) -> int | str:
    """Return the axis of a constant that every reader sums over, or why there is no such axis.

    Followed through `Transpose`, `Identity` and `Cast`; `rank` is the number of the constant's dimensions.
    """
    found: dict[int, None] = {}
    stack: list[tuple[ir.Value, tuple[int, ...]]] = [(value, tuple(range(rank)))]
    while stack:
        # `axes` says which axis of the constant each axis of the value at hand is.
        at, axes = stack.pop()
        for usage in at.uses():
            node = usage.node
            if node.domain == "" and node.op_type in _SAME and usage.idx == 0:
                stack.append((node.outputs[0], axes))
            elif node.domain == "" and node.op_type == "Transpose":
                order = node.attributes.get("perm")
                permuted = tuple(reversed(axes)) if order is None else tuple(axes[i] for i in order.as_ints())
                stack.append((node.outputs[0], permuted))
            else:
                axis = _summed(node, usage.idx, len(axes))
                if isinstance(axis, str):
                    return axis
                found[axes[axis]] = None
    if not found:
        return "nothing reads it"
    return next(iter(found)) if len(found) == 1 else "its readers sum over different axes"


def _summed(node: ir.Node, index: int, rank: int) -> int | str:
    match node.op_type, index:
        case "Conv", 1:
            return 1
        case "MatMul", 0 | 1 if rank >= 2:
            return rank - 1 if index == 0 else rank - 2
        case "MatMul", _:
            return "it is a vector"
        case "Gemm", 0:
            return 0 if node.attributes.get_int("transA", 0) else 1
        case "Gemm", 1:
            return 1 if node.attributes.get_int("transB", 0) else 0
    return f"no sparse kernel reads it ({node.op_type})"
