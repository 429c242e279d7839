"""Cutting nodes out of a graph as a module of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir
from mopt.ir.module import Module

Shape = Sequence[int | str | None]


def cut(
    module: Module,
    nodes: Collection[ir.Node],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    shapes: Mapping[str, Shape] | None = None,
) -> Module:
    """Return a module of some nodes of the main graph. Weights are shared, names and provenance stay.

    Args:
        module: what to cut from; it stays as it is.
        nodes: what to keep, with all that lies between.
        inputs: values of the main graph that the new module is fed.
        outputs: values that it returns, computed by `nodes`.
        shapes: of inputs, by name, where they are known better than the graph says.

    Raises:
        IRError: the graph is not topologically sorted.
    """
    part = module.clone()
    graph = part.graph
    kept = {copy for original, copy in zip(module.graph, graph, strict=True) if original in nodes}
    values = {value.name: value for node in graph for value in node.outputs}
    values |= {value.name: value for value in graph.inputs}
    results = [values[value.name] for value in outputs]
    graph.outputs.clear()
    fed = []
    for original in inputs:
        old = values[original.name]
        known = (shapes or {}).get(original.name or "")
        new = ir.Value(name=old.name, type=old.type, shape=old.shape if known is None else ir.Shape(known))
        old.replace_all_uses_with(new)
        fed.append(new)
    graph.outputs.extend(results)
    graph.remove([node for node in graph if node not in kept], safe=True)
    graph.inputs.clear()
    graph.inputs.extend(fed)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
    part.touch()
    return part
