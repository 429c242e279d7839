"""Couplings of Reshape, Flatten and Expand: axes as products of axes.

A reshape is read as a sequence of segments in which a few axes become a few others with the same product: one axis
stays itself; one axis becomes several (a projection becomes heads × width); several become one (channels × places are
flattened). Of a product one factor is cut: the only one that can be, or the outermost where several could (whole heads
go, not a slice of each). Several axes that become several others at once are not followed.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling.couplings import Couplings
from mopt.analysis.coupling.operands import entries
from mopt.ir.dtypes import dims
from mopt.rewrite.attributes import integer

Segment = tuple[list[int], list[int]]


def reshape(c: Couplings, node: ir.Node) -> None:
    """Reshape and Flatten."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    segments, left, right = align(_tokens(c, data), _tokens(c, result))
    for value, axes in ((data, left), (result, right)):
        for axis in axes:
            c.fix(value, axis, f"{node.op_type} `{node.name}` is not followed")
    if node.op_type == "Reshape":
        wanted = entries(node.inputs[1], c.rank(result))
        for axis, entry in enumerate(wanted):
            if entry is None:
                c.fix(result, axis, f"its size is computed for {node.op_type} `{node.name}`")
    for before, after in segments:
        if not _same_order(c, (data, before), (result, after)):
            for value, axes in ((data, before), (result, after)):
                for axis in axes:
                    c.fix(value, axis, f"{node.op_type} `{node.name}` merges the batch into it from within")
        elif len(before) == len(after) == 1:
            c.couple(node, (data, before[0]), (result, after[0]))
        else:
            _product(c, node, (data, before), (result, after))


def _same_order(c: Couplings, one: tuple[ir.Value, list[int]], other: tuple[ir.Value, list[int]]) -> bool:
    """Say whether a batch merged into an axis of one side is the outer part, next to which it stands on the other."""
    (left, before), (right, after) = one, other
    if any((value, axis) in c.merged for value, axes in (one, other) for axis in axes[1:]):
        return False
    heads = [(left, before[0]) in c.merged, (right, after[0]) in c.merged]
    if heads[0] == heads[1]:
        return True
    value, axis = (right, after[0]) if heads[0] else (left, before[0])
    while axis > 0 and c.size(value, axis - 1) == 1:
        axis -= 1
    return axis > 0 and (c.size(value, axis - 1) is None or (value, axis - 1) in c.merged)


def expand(c: Couplings, node: ir.Node) -> None:
    """Expand: like an element-wise operator; an axis that grows is as long as its shape says."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    c.couple_aligned(node, data, result)
    wanted = entries(node.inputs[1], c.rank(result))
    shift = c.rank(result) - len(wanted)
    for axis, entry in enumerate(wanted):
        if entry is None:
            c.fix(result, axis + shift, f"its size is computed for Expand `{node.name}`")


def filled(c: Couplings, node: ir.Node) -> None:
    """ConstantOfShape: as long as its shape says."""
    result = node.outputs[0]
    for axis, entry in enumerate(entries(node.inputs[0], c.rank(result))):
        if entry is None:
            c.fix(result, axis, f"its size is computed for ConstantOfShape `{node.name}`")


def _product(c: Couplings, node: ir.Node, one: tuple[ir.Value, list[int]], other: tuple[ir.Value, list[int]]) -> None:
    (whole, (merged, *_)), (value, factors) = (one, other) if len(one[1]) == 1 else (other, one)

    def decide() -> None:
        free = [axis for axis in factors if not c.is_fixed(value, axis)]
        chosen = free[0] if free else factors[0]
        for axis in factors:
            if axis != chosen:
                c.fix(value, axis, f"a factor of a product in {node.op_type} `{node.name}`, of which another is cut")
        sizes = [c.size(value, axis) or 1 for axis in factors]
        position = factors.index(chosen)
        stride = math.prod(sizes[position + 1 :])
        every = np.arange(math.prod(sizes), dtype=np.int64)
        c.couple(node, (whole, merged), (value, chosen), every, (every // stride) % sizes[position])

    c.later(decide)


def _tokens(c: Couplings, value: ir.Value) -> list[int | str]:
    names = dims(value.shape) or ()
    found: list[int | str] = []
    for axis, size in enumerate(c.sizes[value]):
        name = names[axis] if axis < len(names) else None
        found.append(size if size is not None else f"{name}" if isinstance(name, str) else f"?{value.name}.{axis}")
    return found


def align(before: list[int | str], after: list[int | str]) -> tuple[list[Segment], list[int], list[int]]:
    """Match the axes of two shapes of equal product, from the left as far as it goes, then from the right.

    Args:
        before, after: sizes; a dynamic one is a text that equals only itself.

    Returns:
        The segments (one or more axes become one or more), in no order, and the axes of either side left over.
        Axes of size 1 stand alone and are in neither.
    """
    left = [axis for axis, size in enumerate(before) if size != 1]
    right = [axis for axis, size in enumerate(after) if size != 1]
    segments: list[Segment] = []
    for backwards in (False, True):
        while left and right:
            segment = _next(before, after, left, right, backwards)
            if segment is None:
                break
            segments.append(segment)
            left = [axis for axis in left if axis not in segment[0]]
            right = [axis for axis in right if axis not in segment[1]]
    several = [segment for segment in segments if len(segment[0]) > 1 and len(segment[1]) > 1]
    for segment in several:
        segments.remove(segment)
        left, right = left + segment[0], right + segment[1]
    return segments, left, right


def _next(
    before: list[int | str], after: list[int | str], left: list[int], right: list[int], backwards: bool
) -> Segment | None:
    one, other = (left[::-1], right[::-1]) if backwards else (left, right)
    if isinstance(before[one[0]], str) or isinstance(after[other[0]], str):
        return ([one[0]], [other[0]]) if before[one[0]] == after[other[0]] else None
    taken, into = 1, 1
    here, there = before[one[0]], after[other[0]]
    while here != there:
        side, count, sizes = (one, taken, before) if _less(here, there) else (other, into, after)
        if count == len(side) or isinstance(sizes[side[count]], str):
            return None
        factor = sizes[side[count]]
        assert isinstance(here, int) and isinstance(there, int) and isinstance(factor, int)
        if side is one:
            here, taken = here * factor, taken + 1
        else:
            there, into = there * factor, into + 1
    return sorted(one[:taken]), sorted(other[:into])


def _less(one: int | str, other: int | str) -> bool:
    assert isinstance(one, int) and isinstance(other, int)
    return one < other


def flatten(c: Couplings, node: ir.Node) -> None:
    """Flatten: the axes before `axis` become one, those from it on another."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    axis, rank = integer(node, "axis", 1), c.rank(data)
    axis = axis + rank if axis < 0 else axis
    for position, axes in ((0, range(axis)), (1, range(axis, rank))):
        wide = [item for item in axes if c.size(data, item) != 1]
        if len(wide) == 1:
            c.couple(node, (data, wide[0]), (result, position))
        elif wide and all(c.size(data, item) is not None for item in wide) and c.size(result, position) is not None:
            _product(c, node, (data, wide), (result, [position]))
        else:
            for item in wide:
                c.fix(data, item, f"Flatten `{node.name}` joins it to a dynamic axis")
            c.fix(result, position, f"Flatten `{node.name}` joins it to a dynamic axis")
