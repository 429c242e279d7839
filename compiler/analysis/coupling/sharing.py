"""Vectors that several nodes share only because exporters store equal constants once."""

from __future__ import annotations

import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values
from mopt.rewrite.constants import stored_tensor
from mopt.rewrite.surgery import drop_dead

VECTORS = {"BatchNormalization", "InstanceNormalization", "LayerNormalization", "Conv", "ConvTranspose", "Gemm"}
"""Operators with a vector a channel: shifts and statistics of an untrained network are all zeros or all ones."""


def separate(module: Module) -> None:
    """Give every such node a vector of its own, so that sharing does not tie layers that have nothing in common.

    Kernels stay shared: two layers with one kernel are one layer used twice.
    """
    names = {value.name or "" for value in graph_values(module.graph)}
    taken: set[ir.Value] = set()
    aliases: dict[ir.Node, None] = {}
    for node in list(module.graph):
        if node.op_type not in VECTORS or node.domain != "":
            continue
        for index, operand in enumerate(node.inputs[1:], 1):
            source = operand
            while source is not None and (alias := source.producer()) is not None and alias.op_type == "Identity":
                source = alias.inputs[0]
            tensor = stored_tensor(source)
            if source is None or operand is None or tensor is None or len(tensor.shape) != 1:
                continue
            if source not in taken and source is operand:
                taken.add(source)
                continue
            taken.add(source)
            name = fresh(operand.name or "vector", names)
            own = ir.Value(name=name, type=source.type, shape=ir.Shape(tensor.shape.numpy()), const_value=tensor)
            module.graph.initializers.add(own)
            node.replace_input_with(index, own)
            producer = operand.producer()
            if producer is not None:
                aliases[producer] = None
            module.touch()
    list(drop_dead(aliases))
