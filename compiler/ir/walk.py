"""Walking a model: its graphs, the graphs inside nodes, and what those capture from outside."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir


def subgraphs_of(node: ir.Node) -> list[ir.Graph]:
    """Return the graphs a node owns through its attributes (`If`, `Loop`, `Scan`), in attribute order."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found


def nested_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """Yield a graph and every graph inside it, outermost first."""
    yield graph
    for node in graph:
        for inner in subgraphs_of(node):
            yield from nested_graphs(inner)


def model_graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph of a model: the main one with all inside it, then those of the functions."""
    yield from nested_graphs(model.graph)
    for function in model.functions.values():
        yield from nested_graphs(function.graph)


def nested_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Yield the nodes of a graph in its order, each followed by the nodes of the graphs it owns."""
    for node in graph:
        yield node
        for inner in subgraphs_of(node):
            yield from nested_nodes(inner)


def model_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yield every node of a model, those of its functions included."""
    yield from nested_nodes(model.graph)
    for function in model.functions.values():
        yield from nested_nodes(function.graph)


def graph_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the values one graph defines: inputs, initializers that are no inputs, named node outputs."""
    yield from graph.inputs
    for value in graph.initializers.values():
        if not value.is_graph_input():
            yield value
    for node in graph:
        for output in node.outputs:
            if output.name:
                yield output


def captures(node: ir.Node) -> list[ir.Value]:
    """Return the values of outer scopes that the graphs inside `node` use, each once, in order of use."""
    inner = subgraphs_of(node)
    if not inner:
        return []
    own = {nested for graph in inner for nested in nested_graphs(graph)}
    found: dict[ir.Value, None] = {}
    for graph in inner:
        for user in nested_nodes(graph):
            for value in user.inputs:
                if value is not None and value.graph not in own:
                    found[value] = None
    return list(found)
