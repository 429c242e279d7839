"""Stable, unique names: what diffs, provenance, recipes' `skip` patterns and weights are keyed by.

Names of the main graph's inputs, outputs and initializers are never changed. Where two graphs of a model use
one name (the branches of an `If` often do), the later one gets a suffix. Functions are scopes of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
from mopt.ir.walk import graph_values, nested_graphs, nested_nodes


def fresh(base: str, taken: set[str]) -> str:
    """Return `base`, or `base` with the smallest free `_N`, and mark it as taken."""
    name, number = base, 0
    while not name or name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name


def name_everything(model: ir.Model) -> None:
    """Give every node and every value of a model a name unique in its scope; deterministic."""
    _name_scope(list(nested_graphs(model.graph)), nested_nodes(model.graph))
    for function in model.functions.values():
        _name_scope(list(nested_graphs(function.graph)), nested_nodes(function.graph))


def _name_scope(graphs: list[ir.Graph], nodes: Iterable[ir.Node]) -> None:
    fixed = {value.name for value in graphs[0].inputs} | {value.name for value in graphs[0].outputs}
    fixed |= set(graphs[0].initializers)
    taken: set[str] = {name for name in fixed if name}
    used: set[str] = set(taken)
    for graph in graphs:
        used.update(value.name for value in graph_values(graph) if value.name)
    for depth, graph in enumerate(graphs):
        for value in list(graph_values(graph)):
            if depth == 0 and value.name in fixed:
                continue
            if value.name in taken:
                # Suffixes avoid every name in use, so that no later value is renamed on account of this one.
                value.name = fresh(value.name, used)
            taken.add(value.name or "")
    every = list(nodes)
    names = {node.name for node in every if node.name}
    seen: set[str] = set()
    for index, node in enumerate(every):
        if not node.name:
            node.name = fresh(f"{node.op_type}_{index}", names)
        elif node.name in seen:
            node.name = fresh(node.name, names)
        seen.add(node.name)
