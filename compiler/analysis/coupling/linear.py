"""Couplings of convolutions, matrix products, einsum and recurrent layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling.couplings import Couplings
from mopt.analysis.coupling.elementwise import share_groups
from mopt.rewrite.attributes import integer, text

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def convolution(c: Couplings, node: ir.Node) -> None:
    """Conv: kernel [O, I/groups, …]. Depthwise ties channel to channel; other groups each lose the same channels."""
    data, kernel, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None and kernel is not None
    groups, outer, inner = integer(node, "group", 1), c.size(kernel, 0), c.size(kernel, 1)
    if outer is None or inner is None:
        c.fix_all([data, kernel, result], f"the kernel of {node.op_type} `{node.name}` has no known size")
        return
    _places(c, node, data, kernel, result)
    c.couple(node, (kernel, 0), (result, 1))
    c.role(kernel, 0, "out", node)
    if groups == 1:
        c.couple(node, (kernel, 1), (data, 1))
        c.role(kernel, 1, "in", node)
    elif inner == 1 and c.size(data, 1) == groups:
        every = np.arange(outer, dtype=np.int64)
        c.couple(node, (data, 1), (result, 1), every // (outer // groups), every)
    elif c.size(data, 1) == inner * groups:
        every = np.arange(inner * groups, dtype=np.int64)
        c.couple(node, (data, 1), (kernel, 1), every, every % inner)
        c.role(kernel, 1, "in", node)
        share_groups(c, node, result, 1, groups)
    else:
        c.fix_all([data, kernel, result], f"the groups of {node.op_type} `{node.name}` can't be told")
    _bias(c, node, result)


def transposed(c: Couplings, node: ir.Node) -> None:
    """ConvTranspose: kernel [I, O/groups, …]."""
    data, kernel, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert data is not None and kernel is not None
    groups, outer = integer(node, "group", 1), c.size(kernel, 1)
    if outer is None or c.size(kernel, 0) is None or c.size(result, 1) is None:
        c.fix_all([data, kernel, result], f"the kernel of {node.op_type} `{node.name}` has no known size")
        return
    _places(c, node, data, kernel, result)
    c.couple(node, (kernel, 0), (data, 1))
    if groups == 1:
        c.couple(node, (kernel, 1), (result, 1))
        c.role(kernel, 0, "in", node)
        c.role(kernel, 1, "out", node)
    elif c.size(kernel, 0) == groups:
        every = np.arange(outer * groups, dtype=np.int64)
        c.couple(node, (data, 1), (result, 1), every // outer, every)
        c.role(kernel, 0, "out", node)
        c.fix(kernel, 1, f"channels of one group of {node.op_type} `{node.name}`")
    else:
        every = np.arange(outer * groups, dtype=np.int64)
        c.couple(node, (result, 1), (kernel, 1), every, every % outer)
        c.role(kernel, 0, "in", node)
        c.role(kernel, 1, "out", node)
        share_groups(c, node, data, 1, groups)
    _bias(c, node, result)


def _places(c: Couplings, node: ir.Node, data: ir.Value, kernel: ir.Value, result: ir.Value) -> None:
    c.couple(node, (data, 0), (result, 0))
    for value in (data, kernel, result):
        for axis in range(2, c.rank(value)):
            c.fix(value, axis, f"places of {node.op_type} `{node.name}`")


def _bias(c: Couplings, node: ir.Node, result: ir.Value) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        c.couple(node, (bias, 0), (result, 1))
        c.role(bias, 0, "bias", node)


def gemm(c: Couplings, node: ir.Node) -> None:
    """Gemm: A [M, K] · B [K, N] + C, either transposed where its attribute says so."""
    left, right, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert left is not None and right is not None
    outer, inner = (1, 0) if integer(node, "transA", 0) else (0, 1)
    deep, wide = (1, 0) if integer(node, "transB", 0) else (0, 1)
    c.couple(node, (left, inner), (right, deep))
    c.couple(node, (left, outer), (result, 0))
    c.couple(node, (right, wide), (result, 1))
    _kernel(c, node, left, right, (outer, inner), (wide, deep))
    added = node.inputs[2] if len(node.inputs) > 2 else None
    if added is not None:
        c.couple_aligned(node, added, result)
        for axis in range(c.rank(added)):
            c.role(added, axis, "bias", node)


def matmul(c: Couplings, node: ir.Node) -> None:
    """MatMul: [… M, K] · [… K, N]; leading axes broadcast; a vector has no M, or no N."""
    left, right, result = node.inputs[0], node.inputs[1], node.outputs[0]
    assert left is not None and right is not None
    one, two, rank = c.rank(left), c.rank(right), c.rank(result)
    c.couple(node, (left, one - 1), (right, max(two - 2, 0)))
    if one > 1:
        c.couple(node, (left, one - 2), (result, rank - (2 if two > 1 else 1)))
    if two > 1:
        c.couple(node, (right, two - 1), (result, rank - 1))
    for value, own in ((left, one), (right, two)):
        batch = rank - (1 if one > 1 else 0) - (1 if two > 1 else 0)
        for axis in range(own - 2):
            onto = axis + batch - (own - 2)
            if c.size(value, axis) != 1 or c.size(result, onto) == 1:
                c.couple(node, (value, axis), (result, onto))
    _kernel(c, node, left, right, (one - 2, one - 1), (two - 1, two - 2))


def _kernel(
    c: Couplings, node: ir.Node, left: ir.Value, right: ir.Value, first: tuple[int, int], second: tuple[int, int]
) -> None:
    for value, (outer, inner) in ((left, first), (right, second)):
        if c.rank(value) > 1:
            c.role(value, outer, "out", node)
            c.role(value, inner, "in", node)


def einsum(c: Couplings, node: ir.Node) -> None:
    """Einsum: axes of one letter are tied."""
    equation = text(node, "equation", "").replace(" ", "")
    terms, _, last = equation.partition("->")
    names = [*terms.split(","), last]
    values = [*node.inputs, node.outputs[0]]
    if "..." in equation or "->" not in equation or len(names) != len(values):
        c.fix_all(values, f"the equation of Einsum `{node.name}` is not followed")
        return
    first: dict[str, tuple[ir.Value, int]] = {}
    for letters, value in zip(names, values, strict=True):
        for axis, letter in enumerate(letters):
            assert value is not None
            if letter in first:
                c.couple(node, first[letter], (value, axis))
            first.setdefault(letter, (value, axis))
            if value is not node.outputs[0]:
                c.role(value, axis, "out" if letter in last else "in", node)


def recurrent(c: Couplings, node: ir.Node) -> None:
    """LSTM, GRU, RNN: a hidden unit is a row of every gate, a column of the recurrence, in both directions at once."""
    gates = GATES[node.op_type]
    inputs = [*node.inputs, *[None] * (8 - len(node.inputs))]
    data, kernel, recurrence, bias, _, hidden, cell, peephole = inputs
    assert data is not None and kernel is not None and recurrence is not None
    values = [*node.inputs, *node.outputs]
    size = c.size(recurrence, 2)
    if integer(node, "layout", 0) or size is None or c.size(kernel, 1) != gates * size:
        c.fix_all(values, f"the layout of {node.op_type} `{node.name}` is not followed")
        return
    unit = (recurrence, 2)
    c.couple(node, (data, 2), (kernel, 2))
    c.role(kernel, 2, "in", node)
    c.role(recurrence, 2, "in", node)
    for operand, axis, copies in ((kernel, 1, gates), (recurrence, 1, gates), (bias, 1, 2 * gates), (peephole, 1, 3)):
        if operand is not None:
            every = np.arange(copies * size, dtype=np.int64)
            c.couple(node, (operand, axis), unit, every, every % size)
            c.role(operand, axis, "gates" if operand in (kernel, recurrence) else "bias", node)
    directions = [(kernel, 0), (recurrence, 0), (bias, 0), (peephole, 0), (hidden, 0), (cell, 0)]
    states = [(hidden, 2), (cell, 2)]
    batches = [(hidden, 1), (cell, 1)]
    for index, result in enumerate(node.outputs):
        if result in c.sizes:
            directions.append((result, 1 if index == 0 else 0))
            states.append((result, 3 if index == 0 else 2))
            batches.append((result, 2 if index == 0 else 1))
            if index == 0:
                c.couple(node, (data, 0), (result, 0))
    for value, axis in directions:
        if value is not None:
            c.fix(value, axis, f"directions of {node.op_type} `{node.name}`")
    for ends, to in ((states, unit), (batches, (data, 1))):
        for value, axis in ends:
            if value is not None:
                c.couple(node, (value, axis), to)
