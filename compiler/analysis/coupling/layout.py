"""Couplings of operators that move elements: Concat, Split, Slice, Pad, Transpose, Gather, Resize, Squeeze …"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling.couplings import Couplings
from mopt.analysis.coupling.operands import axes_of, entries, ints
from mopt.rewrite.attributes import integer, integers, text
from mopt.rewrite.constants import any_constant, stored_tensor


def concat(c: Couplings, node: ir.Node) -> None:
    """Concat: the indices of each operand follow those of the one before."""
    result = node.outputs[0]
    axis = integer(node, "axis", 1) % c.rank(result)
    sizes = [c.size(operand, axis) if operand is not None else None for operand in node.inputs]
    known = None not in sizes and c.size(result, axis) is not None
    offset = 0
    for operand, size in zip(node.inputs, sizes, strict=True):
        assert operand is not None
        for other in range(c.rank(operand)):
            if other != axis:
                c.couple(node, (operand, other), (result, other))
        if known and size is not None:
            every = np.arange(size, dtype=np.int64)
            c.couple(node, (operand, axis), (result, axis), every, every + offset)
            offset += size
        else:
            c.fix(operand, axis, f"joined to a dynamic axis by Concat `{node.name}`")
            c.fix(result, axis, f"joined to a dynamic axis by Concat `{node.name}`")


def split(c: Couplings, node: ir.Node) -> None:
    """Split: the indices of each result follow those of the one before."""
    data = node.inputs[0]
    assert data is not None
    axis = integer(node, "axis", 0) % c.rank(data)
    sizes = [c.size(result, axis) if result in c.sizes else None for result in node.outputs]
    known = None not in sizes and c.size(data, axis) is not None and ints(node, "split", 1) is not None
    if len(sizes) > 1 and set(sizes) == {1}:
        # Such an axis lists things (query, key, value); it holds no channels.
        c.fix(data, axis, f"taken one by one by Split `{node.name}`")
    offset = 0
    for result, size in zip(node.outputs, sizes, strict=True):
        for other in range(c.rank(result) if result in c.sizes else 0):
            if other != axis:
                c.couple(node, (data, other), (result, other))
        if known and size is not None:
            every = np.arange(size, dtype=np.int64)
            c.couple(node, (data, axis), (result, axis), every + offset, every)
            offset += size
        else:
            c.fix_all([result], f"a part of unknown size of Split `{node.name}`")
            c.fix(data, axis, f"divided into parts of unknown size by Split `{node.name}`")


def bounds(node: ir.Node, rank: int) -> dict[int, tuple[int, int, int]] | None:
    """Return what a Slice takes of each axis it names, as written (start, end, step); None where that is computed."""
    starts, ends = ints(node, "starts", 1), ints(node, "ends", 2)
    axes, steps = ints(node, "axes", 3), ints(node, "steps", 4)
    if starts is None or ends is None or axes is None or steps is None:
        return None
    named = [axis % rank for axis in axes] or list(range(len(starts)))
    every = steps or [1] * len(starts)
    return {axis: (starts[k], ends[k], every[k]) for k, axis in enumerate(named)}


def cut_slice(c: Couplings, node: ir.Node) -> None:
    """Slice: contiguous parts are followed, strides are not."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    taken = bounds(node, c.rank(data))
    if taken is None:
        named = ints(node, "axes", 3)
        unknown = [axis % c.rank(data) for axis in named] if named else list(range(c.rank(data)))
        for value in (data, result):
            for axis in unknown:
                c.fix(value, axis, f"the bounds of Slice `{node.name}` are computed")
        taken = dict.fromkeys(unknown, (0, 0, 0))
    for axis in range(c.rank(data)):
        size = c.size(data, axis)
        if axis in taken and taken[axis][2] == 0:
            continue
        if axis not in taken:
            c.couple(node, (data, axis), (result, axis))
        elif size is not None:
            at = np.arange(size, dtype=np.int64)[slice(*taken[axis])] if taken[axis][2] > 0 else None
            if at is not None and len(at) == 1 < size:
                c.fix(data, axis, f"taken one by one by Slice `{node.name}`")
            elif at is not None and taken[axis][2] == 1 and len(at) == c.size(result, axis):
                c.couple(node, (data, axis), (result, axis), at, np.arange(len(at), dtype=np.int64))
            else:
                c.fix(data, axis, f"taken in steps by Slice `{node.name}`")
                c.fix(result, axis, f"taken in steps by Slice `{node.name}`")
        else:
            c.fix(result, axis, f"taken from a dynamic axis by Slice `{node.name}`")


def pad(c: Couplings, node: ir.Node) -> None:
    """Pad: what is added can't be cut, what was there can."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    rank = c.rank(data)
    pads = ints(node, "pads", 1) if c.opset >= 11 else (integers(node, "pads") or integers(node, "paddings"))
    axes = ints(node, "axes", 3) if len(node.inputs) > 3 and node.inputs[3] is not None else []
    if pads is None or axes is None:
        c.fix_all([data, result], f"the pads of Pad `{node.name}` are computed")
        return
    named = [axis % rank for axis in axes] or list(range(rank))
    for axis in range(rank):
        place = named.index(axis) if axis in named else None
        before, after = (pads[place], pads[place + len(named)]) if place is not None else (0, 0)
        size = c.size(data, axis)
        if before == after == 0:
            c.couple(node, (data, axis), (result, axis))
        elif size is not None and min(before, after) >= 0 and text(node, "mode", "constant") == "constant":
            every = np.arange(size, dtype=np.int64)
            c.couple(node, (data, axis), (result, axis), every, every + before)
            added = np.r_[0:before, before + size : before + size + after].astype(np.int64)
            c.fix(result, axis, f"added by Pad `{node.name}`", added)
        else:
            for value in (data, result):
                c.fix(value, axis, f"padded by Pad `{node.name}`")


def transpose(c: Couplings, node: ir.Node) -> None:
    """Transpose: axes change places."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    order = integers(node, "perm") or list(reversed(range(c.rank(data))))
    for position, axis in enumerate(order):
        c.couple(node, (data, axis), (result, position))
    _carry_roles(c, node, {axis: position for position, axis in enumerate(order)})


def _carry_roles(c: Couplings, node: ir.Node, moved: dict[int, int]) -> None:
    """A weight behind a Transpose is to the next node what the transposed one is."""
    data, result = node.inputs[0], node.outputs[0]
    if stored_tensor(data) is None or data is None:
        return

    def carry() -> None:
        for axis, position in moved.items():
            for role, reader in c.roles.get((result, position), []):
                c.role(data, axis, role, reader)

    c.later(carry)


def gather(c: Couplings, node: ir.Node) -> None:
    """Gather: a table's rows are picked by index and stay; its other axes pass."""
    data, indices, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None and indices is not None
    axis, wide = integer(node, "axis", 0) % c.rank(data), c.rank(indices)
    c.fix(data, axis, f"picked by index in Gather `{node.name}`")
    for other in range(c.rank(data)):
        if other != axis:
            c.couple(node, (data, other), (result, other if other < axis else other + wide - 1))
            if stored_tensor(data) is not None:
                c.role(data, other, "embedding", node)
    for other in range(wide):
        c.couple(node, (indices, other), (result, axis + other))


def resize(c: Couplings, node: ir.Node) -> None:
    """Resize and Upsample: axes that keep their size pass."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    place = 1 if node.op_type == "Upsample" or c.opset < 11 else 2
    sized = node.inputs[3] if len(node.inputs) > 3 else None
    named = integers(node, "axes")
    wanted = entries(sized, c.rank(data)) if sized is not None and named is None else []
    written = node.attributes.get("scales")
    values = any_constant(node.inputs[place]) if len(node.inputs) > place else None
    if written is not None:
        values = np.asarray(written.as_floats())
    for axis in range(c.rank(data)):
        factor: float | None = None
        if named is not None and axis not in [item % c.rank(data) for item in named]:
            factor = 1.0
        elif named is None and values is not None and np.size(values) == c.rank(data):
            factor = float(np.reshape(values, -1)[axis])
        elif wanted and wanted[axis] is not None and c.size(data, axis) == wanted[axis]:
            factor = 1.0
        if factor == 1.0 and c.size(data, axis) == c.size(result, axis):
            c.couple(node, (data, axis), (result, axis))
        else:
            for value in (data, result):
                c.fix(value, axis, f"resized by {node.op_type} `{node.name}`")


def squeeze(c: Couplings, node: ir.Node) -> None:
    """Squeeze and Unsqueeze: axes of size 1 go or come."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    larger, smaller = (data, result) if node.op_type == "Squeeze" else (result, data)
    axes = axes_of(node, c.rank(larger))
    if axes == []:
        axes = [axis for axis in range(c.rank(larger)) if c.size(larger, axis) == 1]
    if axes is None or c.rank(larger) - len(axes) != c.rank(smaller):
        c.fix_all([data, result], f"the axes of {node.op_type} `{node.name}` are computed")
        return
    stay = [axis for axis in range(c.rank(larger)) if axis not in axes]
    for position, axis in enumerate(stay):
        c.couple(node, (larger, axis), (smaller, position))


def blocks(c: Couplings, node: ir.Node) -> None:
    """DepthToSpace and SpaceToDepth: one channel of the wide map is a block of channels of the deep one."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    deep, wide = (data, result) if node.op_type == "DepthToSpace" else (result, data)
    block = integer(node, "blocksize", 1) ** 2
    size = c.size(wide, 1)
    c.couple(node, (data, 0), (result, 0))
    for value in (data, result):
        for axis in (2, 3):
            c.fix(value, axis, f"places of {node.op_type} `{node.name}`")
    if size is None or c.size(deep, 1) != size * block:
        c.fix(deep, 1, f"its size is not known through {node.op_type} `{node.name}`")
        c.fix(wide, 1, f"its size is not known through {node.op_type} `{node.name}`")
        return
    every = np.arange(size * block, dtype=np.int64)
    inner = text(node, "mode", "DCR") == "DCR" or node.op_type == "SpaceToDepth"
    c.couple(node, (deep, 1), (wide, 1), every, every % size if inner else every // block)


def tile(c: Couplings, node: ir.Node) -> None:
    """Tile: axes that are not repeated pass."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    repeats = ints(node, "repeats", 1)
    for axis in range(c.rank(data)):
        if repeats is not None and repeats[axis] == 1:
            c.couple(node, (data, axis), (result, axis))
        else:
            for value in (data, result):
                c.fix(value, axis, f"repeated by Tile `{node.name}`")


def shape(c: Couplings, node: ir.Node) -> None:
    """Shape: a size that is read at run time must not change, for who reads it may count on it."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    rank = c.rank(data)
    read = list(range(rank))[integer(node, "start", 0) : integer(node, "end", rank)]
    users = [usage.node for usage in result.uses()]
    if users and not result.is_graph_output() and all(user.op_type in ("Gather", "Slice") for user in users):
        picked: set[int] = set()
        for user in users:
            picked |= _picked(user, len(read))
        read = [read[index] for index in sorted(picked)]
    for axis in read:
        c.fix(data, axis, f"its size is read by Shape `{node.name}`")


def _picked(user: ir.Node, length: int) -> set[int]:
    every = set(range(length))
    if user.op_type == "Gather":
        indices = any_constant(user.inputs[1])
        return every if indices is None else {int(index) % length for index in np.reshape(indices, -1)}
    taken = bounds(user, 1)
    return every if taken is None or 0 not in taken else set(list(range(length))[slice(*taken[0])])
