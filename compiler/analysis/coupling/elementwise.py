"""Couplings of element-wise operators, normalisations, pooling, reductions and softmax."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling.couplings import Couplings
from mopt.analysis.coupling.operands import axes_of
from mopt.rewrite.attributes import integer

ELEMENTWISE = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitShift", "Cast", "Ceil", "Celu",
    "Clip", "Cos", "Cosh", "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater",
    "GreaterOrEqual", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less",
    "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow",
    "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt",
    "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu", "Where", "Xor",
})  # fmt: skip
"""Operators whose result holds at each place what its operands hold there; operands broadcast."""

LINEAR_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2"})
"""Reductions that stay meaningful over fewer elements (the statistics of a layer normalisation, above all)."""


def elementwise(c: Couplings, node: ir.Node) -> None:
    """Broadcasting operators: every operand's axes are the result's."""
    result = node.outputs[0]
    for output in node.outputs[1:]:
        if output in c.sizes:
            c.couple_aligned(node, output, result)
    for operand in node.inputs:
        if operand is None:
            continue
        c.couple_aligned(node, operand, result)
        if node.op_type in ("Add", "Sub", "Mul", "PRelu"):
            role = "bias" if node.op_type in ("Add", "Sub") else "scale" if node.op_type == "Mul" else "slope"
            for axis in range(c.rank(operand)):
                c.role(operand, axis, role, node)


def channel_norm(c: Couplings, node: ir.Node) -> None:
    """BatchNormalization and InstanceNormalization: a scale, a shift (and statistics) for each channel."""
    c.couple_aligned(node, node.inputs[0], node.outputs[0])  # type: ignore[arg-type]
    for role, operand in zip(("gamma", "bias", "mean", "variance"), node.inputs[1:], strict=False):
        if operand is not None:
            c.couple(node, (operand, 0), (node.outputs[0], 1))
            c.role(operand, 0, role, node)
    c.fix_all(node.outputs[1:], f"statistics that {node.op_type} `{node.name}` returns")


def layer_norm(c: Couplings, node: ir.Node) -> None:
    """LayerNormalization and RMSNormalization: statistics over the last axes, scale and shift element by element."""
    c.couple_aligned(node, node.inputs[0], node.outputs[0])  # type: ignore[arg-type]
    for role, operand in zip(("gamma", "bias"), node.inputs[1:], strict=False):
        if operand is not None:
            c.couple_aligned(node, operand, node.outputs[0])
            for axis in range(c.rank(operand)):
                c.role(operand, axis, role, node)
    for output in node.outputs[1:]:
        if output in c.sizes:
            c.couple_aligned(node, output, node.outputs[0])


def group_norm(c: Couplings, node: ir.Node) -> None:
    """GroupNormalization: every group loses the same channels, so that all stay equally large."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    c.couple_aligned(node, data, result)
    for role, operand in zip(("gamma", "bias"), node.inputs[1:], strict=False):
        if operand is not None and c.size(operand, 0) == c.size(result, 1):
            c.couple(node, (operand, 0), (result, 1))
            c.role(operand, 0, role, node)
    share_groups(c, node, result, 1, integer(node, "num_groups", 1))


def share_groups(c: Couplings, node: ir.Node, value: ir.Value, axis: int, groups: int) -> None:
    """Tie the k-th index of every group of an axis to each other."""
    size = c.size(value, axis)
    if size is None or groups < 2:
        return
    every = np.arange(size, dtype=np.int64)
    c.couple(node, (value, axis), (value, axis), every, every % (size // groups))


def pool(c: Couplings, node: ir.Node) -> None:
    """Pooling: batch and channels pass, places are the kernel's business."""
    data = node.inputs[0]
    assert data is not None
    for result in node.outputs:
        if result not in c.sizes:
            continue
        for axis in (0, 1):
            c.couple(node, (data, axis), (result, axis))
        for axis in range(2, c.rank(result)):
            c.fix(result, axis, f"places of {node.op_type} `{node.name}`")
    for axis in range(2, c.rank(data)):
        c.fix(data, axis, f"places of {node.op_type} `{node.name}`")


def reduction(c: Couplings, node: ir.Node) -> None:
    """Reductions: the axes that stay are tied; those reduced are free where fewer elements mean the same."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    rank = c.rank(data)
    axes = axes_of(node, rank)
    if axes is None:
        c.fix_all([data, result], f"axes of {node.op_type} `{node.name}` are computed")
        return
    if not axes and not integer(node, "noop_with_empty_axes", 0):
        axes = list(range(rank))
    keep = integer(node, "keepdims", 1)
    position = 0
    for axis in range(rank):
        if axis in axes:
            if node.op_type not in LINEAR_REDUCTIONS:
                c.fix(data, axis, f"reduced by {node.op_type} `{node.name}`")
            position += keep
            continue
        c.couple(node, (data, axis), (result, position))
        position += 1


def softmax(c: Couplings, node: ir.Node) -> None:
    """Softmax and its like, CumSum: the axis they run along is one distribution, which is not cut."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    c.couple_aligned(node, data, result)
    rank = c.rank(data)
    axis = integer(node, "axis", -1 if c.opset >= 13 else 1) % rank
    for along in [axis] if c.opset >= 13 else range(axis, rank):
        c.fix(data, along, f"{node.op_type} `{node.name}` runs along it")


def response_norm(c: Couplings, node: ir.Node) -> None:
    """LRN: neighbouring channels matter, so that none can go."""
    data, result = node.inputs[0], node.outputs[0]
    assert data is not None
    c.couple_aligned(node, data, result)
    c.fix(data, 1, f"{node.op_type} `{node.name}` looks at neighbouring channels")
