"""The analysis: every operator's say, then the products, over the main graph of a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import onnx_ir as ir
from mopt.analysis.coupling import elementwise, layout, linear, reshape
from mopt.analysis.coupling.couplings import Couplings
from mopt.analysis.coupling.probing import sizes as _sizes
from mopt.analysis.coupling.sharing import separate
from mopt.ir import Module
from mopt.ir.walk import captures, subgraphs_of

Rule = Callable[[Couplings, ir.Node], None]

RULES: Final[Mapping[str, Rule]] = {
    **dict.fromkeys(elementwise.ELEMENTWISE, elementwise.elementwise),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), elementwise.channel_norm),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), elementwise.layer_norm),
    "GroupNormalization": elementwise.group_norm,
    "LRN": elementwise.response_norm,
    **dict.fromkeys(
        ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"), elementwise.pool
    ),
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
         "ReduceProd", "ReduceSum", "ReduceSumSquare"), elementwise.reduction
    ),
    **dict.fromkeys(("Hardmax", "LogSoftmax", "Softmax"), elementwise.softmax),
    "Conv": linear.convolution,
    "ConvTranspose": linear.transposed,
    "Einsum": linear.einsum,
    "Gemm": linear.gemm,
    "MatMul": linear.matmul,
    **dict.fromkeys(linear.GATES, linear.recurrent),
    "Concat": layout.concat,
    "ConstantOfShape": reshape.filled,
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), layout.blocks),
    "Gather": layout.gather,
    "Pad": layout.pad,
    **dict.fromkeys(("Resize", "Upsample"), layout.resize),
    "Shape": layout.shape,
    "Slice": layout.cut_slice,
    "Split": layout.split,
    **dict.fromkeys(("Squeeze", "Unsqueeze"), layout.squeeze),
    "Tile": layout.tile,
    "Transpose": layout.transpose,
    "Expand": reshape.expand,
    "Flatten": reshape.flatten,
    "Reshape": reshape.reshape,
}  # fmt: skip
"""Operator → what it says of the axes of its operands and results. What is not here fixes them all."""


def couplings(module: Module) -> Couplings:
    """Analyse the main graph of a module.

    In the module, shapes are inferred and stored, and vectors that several nodes share are separated (see `sharing`).
    """
    separate(module)
    sizes, merged = _sizes(module)
    c = Couplings(sizes, module.opset, merged)
    for value in module.graph.inputs:
        c.fix_all([value], f"input `{value.name}` of the model")
    for value in module.graph.outputs:
        c.fix_all([value], f"output `{value.name}` of the model")
    for node in module.graph:
        _hear(c, node)
    c.settle()
    return c


def _hear(c: Couplings, node: ir.Node) -> None:
    if subgraphs_of(node):
        why = f"{node.op_type} `{node.name}` holds graphs of its own"
        c.fix_all([*node.inputs, *node.outputs, *captures(node)], why)
        return
    if node.op_type == "Constant" and node.domain == "":
        return
    rule = RULES.get(node.op_type) if node.domain == "" else None
    present = [*(value for value in node.inputs if value is not None), *node.outputs[:1]]
    if rule is None:
        named = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        c.fix_all([*node.inputs, *node.outputs], f"operator {named} `{node.name}` is not followed")
    elif any(value not in c.sizes for value in present):
        c.fix_all([*node.inputs, *node.outputs], f"a shape of {node.op_type} `{node.name}` is not known")
    else:
        rule(c, node)
