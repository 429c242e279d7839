"""Reading operands: axes given as attribute or input, and the entries of shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.rewrite.attributes import integers
from mopt.rewrite.constants import any_constant


def ints(node: ir.Node, name: str, index: int) -> list[int] | None:
    """Return integers that are an attribute in old opsets and an input in new ones.

    Returns:
        The integers, `[]` where neither is given, None where they are computed at run time.
    """
    attribute = integers(node, name)
    if attribute is not None:
        return attribute
    operand = node.inputs[index] if len(node.inputs) > index else None
    if operand is None:
        return []
    array = any_constant(operand)
    return None if array is None else [int(item) for item in np.asarray(array).reshape(-1)]


def axes_of(node: ir.Node, rank: int) -> list[int] | None:
    """Return the axes a node names, none below zero; None where they are computed."""
    found = ints(node, "axes", 1)
    return None if found is None else [axis % rank for axis in found]


def entries(value: ir.Value | None, rank: int) -> list[int | None]:
    """Return the entries of a shape of a known length; None for each that is computed at run time."""
    array = any_constant(value)
    if array is not None:
        return [int(item) for item in np.asarray(array).reshape(-1)]
    producer = value.producer() if value is not None else None
    if producer is None or producer.domain != "":
        return [None] * rank
    if producer.op_type == "Where":
        return _chosen(producer, rank)
    return _joined(producer, rank) if producer.op_type == "Concat" else [None] * rank


def _joined(node: ir.Node, rank: int) -> list[int | None]:
    """Return the entries of a Concat of sizes."""
    found: list[int | None] = []
    for operand in node.inputs:
        part = any_constant(operand)
        length = None if operand is None or operand.shape is None else operand.shape[0]
        if part is not None:
            found.extend(int(item) for item in np.asarray(part).reshape(-1))
        elif isinstance(length, int):
            found.extend([None] * length)
        else:
            return [None] * rank
    return found if len(found) == rank else [None] * rank


def _chosen(node: ir.Node, rank: int) -> list[int | None]:
    """Return the entries of Where(Equal(sizes, -1), 1, sizes): how PyTorch exports what Expand leaves as it is."""
    equal = node.inputs[0].producer() if node.inputs[0] is not None else None
    if equal is None or equal.op_type != "Equal" or equal.domain != "":
        return [None] * rank
    left, right, one, other = (entries(value, rank) for value in (*equal.inputs, *node.inputs[1:]))
    if {len(left), len(right), len(one), len(other)} != {rank}:
        return [None] * rank
    return [
        None if None in (a, b) else (x if a == b else y) for a, b, x, y in zip(left, right, one, other, strict=True)
    ]
