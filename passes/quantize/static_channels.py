"""Which values must be scaled alike, channel by channel, for a network to compute the same: groups for equalisation.

Convolutions and products start and end a group; what is homogeneous (Relu, pools, sums, a product with a gate) ties
what it reads to what it gives. A value that is the graph's own or that anything else touches blocks its group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import networkx as nx
import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.rewrite.constants import constant_array

_HOMOGENEOUS: Final = frozenset(
    {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Identity"}
)
_GATES: Final = frozenset({"Sigmoid", "HardSigmoid"})


@dataclass
class Group:
    """Values whose channels share one scale each.

    Attributes:
        values: in topological order.
        producers: weighted nodes that give one of them.
        consumers: weighted nodes that read one of them.
        ceiling: the upper end of a Clip on the way; None without one.
    """

    values: list[ir.Value] = field(default_factory=list)
    producers: list[ir.Node] = field(default_factory=list)
    consumers: list[ir.Node] = field(default_factory=list)
    ceiling: float | None = None


def groups(module: Module) -> list[Group]:
    """Return the groups of a module's main graph that can be scaled."""
    ties: nx.Graph[ir.Value] = nx.Graph()
    blocked: set[ir.Value] = set()
    made: dict[ir.Value, ir.Node] = {}
    read: list[tuple[ir.Value, ir.Node]] = []
    ceilings: dict[ir.Value, set[float]] = {}
    for value in module.graph.inputs:
        ties.add_node(value)
        blocked.add(value)
    for node in module.graph:
        if node.op_type == "Constant":
            continue
        activations = [value for value in node.inputs if value is not None and constant_array(value) is None]
        ties.add_nodes_from((*activations, *node.outputs))
        if scalable(node):
            made[node.outputs[0]] = node
            read.append((activations[0], node))
            continue
        tied = list(_tied(node, activations))
        ceiling = _ceiling(node)
        if ceiling is not None:
            tied = [activations[0], node.outputs[0]]
            ceilings.setdefault(node.outputs[0], set()).add(ceiling)
        ties.add_edges_from(pairwise(tied))
        blocked.update(value for value in (*activations, *node.outputs) if value not in tied)
        for attribute in node.attributes.values():
            if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                blocked.update(_captured(module))
    blocked.update(value for value in module.graph.outputs)
    found = []
    for members in nx.connected_components(ties):
        if members & blocked:
            continue
        ends = {ceiling for value in members for ceiling in ceilings.get(value, ())}
        group = Group(ceiling=next(iter(ends), None))
        group.values = [value for node in module.graph for value in node.outputs if value in members]
        group.producers = [made[value] for value in group.values if value in made]
        group.consumers = [node for value, node in read if value in members]
        # What passed a Clip on one way only must not be mixed with what did not.
        sources = [value for value in group.values if value in made]
        if group.producers and group.consumers and (not ends or (len(ends) == 1 and len(sources) == 1)):
            found.append(group)
    order = {node: index for index, node in enumerate(module.graph)}
    return sorted(found, key=lambda group: order[group.producers[0]])


def scalable(node: ir.Node) -> bool:
    """Say whether a node's weight and bias are constants of its own, which scales can go into."""
    if node.domain != "" or node.op_type not in ("Conv", "Gemm") or node.inputs[0] is None:
        return False
    if constant_array(node.inputs[0]) is not None:
        return False
    if node.op_type == "Gemm":
        turned = node.attributes.get("transA")
        if turned is not None and turned.as_int():
            return False
    for index, value in enumerate(node.inputs[1:], 1):
        array = constant_array(value)
        if value is None:
            continue
        if array is None or array.dtype != np.float32 or (index == 1 and len(value.uses()) > 1):
            return False
        if index == 2 and array.ndim != 1:
            return False
    return True


def _tied(node: ir.Node, activations: list[ir.Value]) -> Iterator[ir.Value]:
    """Yield what a node ties: its input and output, or all terms of a sum."""
    if node.domain != "":
        return
    if node.op_type in _HOMOGENEOUS:
        if node.op_type != "ReduceMean" or _spatial(node):
            yield from (node.inputs[0], node.outputs[0])  # type: ignore[misc]
    elif node.op_type == "Add" and len(activations) == 2 and _same_shape(*activations):
        yield from (*activations, node.outputs[0])
    elif node.op_type == "Mul" and len(activations) == 2:
        gates = [value for value in activations if _is_gate(value)]
        if len(gates) == 1:
            yield next(value for value in activations if value not in gates)
            yield node.outputs[0]


def _ceiling(node: ir.Node) -> float | None:
    """Return the upper end of a Clip from zero."""
    if node.domain != "" or node.op_type != "Clip" or len(node.inputs) < 3:
        return None
    ends = [constant_array(value) for value in node.inputs[1:3]]
    if any(end is None or end.size != 1 for end in ends):
        return None
    low, high = (float(end.reshape(-1)[0]) for end in ends if end is not None)
    return high if low == 0 and 0 < high < np.inf else None


def _is_gate(value: ir.Value) -> bool:
    """Say whether a value is a gate of one number a channel (squeeze and excite)."""
    producer = value.producer()
    if producer is None or producer.op_type not in _GATES or value.shape is None or len(value.shape) != 4:
        return False
    return [value.shape[2], value.shape[3]] == [1, 1]


def _spatial(node: ir.Node) -> bool:
    axes = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    if "axes" in node.attributes:
        axes = np.array(node.attributes["axes"].as_ints())
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if axes is None or shape is None:
        return False
    return min(int(axis) % len(shape) for axis in axes.reshape(-1)) >= 2


def _same_shape(one: ir.Value, two: ir.Value) -> bool:
    if one.shape is None or two.shape is None or len(one.shape) != len(two.shape) or len(one.shape) < 2:
        return False
    return isinstance(one.shape[1], int) and one.shape[1] == two.shape[1]


def _captured(module: Module) -> Iterator[ir.Value]:
    """Yield the values that inner graphs read from the main one."""
    outer = {value for node in module.graph for value in node.outputs}
    for node in module.nodes():
        if node.graph is not module.graph:
            yield from (value for value in node.inputs if value is not None and value in outer)
