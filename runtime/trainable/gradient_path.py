"""Which values gradients can reach: what steers shapes, indices and comparisons is left out, exactly as it is."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.walk import nested_nodes, subgraphs_of
from mopt.runtime.trainable.operator import HOST_INPUTS

_FLAT: Final = frozenset(
    {"ArgMax", "ArgMin", "Bernoulli", "Ceil", "ConstantOfShape", "EyeLike", "Equal", "Floor", "Greater",
     "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Multinomial", "NonMaxSuppression", "NonZero",
     "OneHot", "Round", "Shape", "Sign", "Size", "Range"}
)  # fmt: skip
"""Operators whose derivative is zero or does not exist."""


def differentiable(module: Module) -> set[ir.Value]:
    """Return the values of a module that its outputs depend on differentiably, in all its graphs."""
    reached: set[ir.Value] = set()
    graphs = [module.graph, *(function.graph for function in module.model.functions.values())]
    for graph in graphs:
        reached.update(graph.outputs)
    # A value of an outer graph may be read in an inner one, and a loop's body by its next round: until nothing new.
    nodes = [node for graph in graphs for node in nested_nodes(graph)]
    size = -1
    while size != len(reached):
        size = len(reached)
        for node in reversed(nodes):
            if reached.isdisjoint(node.outputs) or not _passes(node):
                continue
            reads = HOST_INPUTS.get((node.domain, node.op_type), ())
            reached.update(value for place, value in enumerate(node.inputs) if value is not None and place not in reads)
            for inner in subgraphs_of(node):
                reached.update(inner.outputs)
    return reached


def _passes(node: ir.Node) -> bool:
    if node.domain == "" and node.op_type in _FLAT:
        return False
    dtypes = [output.dtype for output in node.outputs if output.name]
    if node.op_type == "QuantizeLinear" or subgraphs_of(node):
        return True
    return not dtypes or any(dtype is None or dtype.is_floating_point() for dtype in dtypes)
