"""Invariants of the graph as such: single assignment, names, uses, scopes, order."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from mopt.ir.dtypes import dims, word
from mopt.ir.invariant import Violation
from mopt.ir.module import Module
from mopt.ir.walk import captures, graph_values, model_graphs, nested_graphs, nested_nodes, subgraphs_of


def _scopes(module: Module) -> list[ir.Graph]:
    return [module.graph, *(function.graph for function in module.model.functions.values())]


def check_ssa(module: Module) -> Iterator[Violation]:
    """Every value has a name, and no other value of the same scope (inner graphs included) has it."""
    for scope in _scopes(module):
        seen: dict[str, ir.Value] = {}
        for graph in nested_graphs(scope):
            for value in graph_values(graph):
                if value.name in seen:
                    yield Violation("ssa", f"the name `{value.name}` is defined twice", _producer_name(value))
                seen[value.name or ""] = value
            for node in graph:
                if any(not output.name and (output.uses() or output.is_graph_output()) for output in node.outputs):
                    yield Violation("ssa", "an output that is used has no name", node.name or "")


def _producer_name(value: ir.Value) -> str:
    producer = value.producer()
    return (producer.name or "") if producer is not None else ""


def check_node_names(module: Module) -> Iterator[Violation]:
    """Every node has a name, and no other node of the same scope has it."""
    for scope in _scopes(module):
        seen: set[str] = set()
        for node in nested_nodes(scope):
            if not node.name:
                yield Violation("node-names", f"a {node.op_type} node has no name")
            elif node.name in seen:
                yield Violation("node-names", f"two nodes are called `{node.name}`", node.name)
            seen.add(node.name or "")


def check_uses(module: Module) -> Iterator[Violation]:
    """What values say of their users is what nodes say of their inputs, and all of them are in the model."""
    present = {node for graph in model_graphs(module.model) for node in graph}
    for node in present_in_order(module):
        for index, value in enumerate(node.inputs):
            if value is not None and not any(use.node is node and use.idx == index for use in value.uses()):
                yield Violation("uses", f"`{value.name}` does not know of its use", node.name or "")
        for output in node.outputs:
            for use in output.uses():
                if use.node not in present:
                    yield Violation(
                        "uses",
                        f"`{output.name}` is used by `{use.node.name}`, which is not in the model",
                        node.name or "",
                    )
    for graph in model_graphs(module.model):
        for value in [*graph.inputs, *graph.initializers.values()]:
            for use in value.uses():
                if use.node not in present:
                    yield Violation("uses", f"`{value.name}` is used by `{use.node.name}`, which is not in the model")


def present_in_order(module: Module) -> Iterator[ir.Node]:
    """Yield every node of every graph and function."""
    for graph in model_graphs(module.model):
        yield from graph


def check_outputs(module: Module) -> Iterator[Violation]:
    """Every graph's outputs are defined in it; its inputs, and the main graph's outputs, are distinct."""
    for graph in model_graphs(module.model):
        own = set(graph_values(graph))
        for value in graph.outputs:
            if value not in own:
                yield Violation("outputs", f"output `{value.name}` of graph `{graph.name}` is not produced in it")
        if len(set(graph.inputs)) != len(graph.inputs):
            yield Violation("outputs", f"graph `{graph.name}` lists an input twice")
        names = [value.name for value in graph.outputs]
        if graph is module.graph and len(set(names)) != len(names):
            yield Violation("outputs", f"graph `{graph.name}` lists an output twice")


def check_initializers(module: Module) -> Iterator[Violation]:
    """Every initializer has a tensor, whose type and shape are the value's, and is filed under its own name."""
    for graph in model_graphs(module.model):
        for key, value in graph.initializers.items():
            tensor = value.const_value
            if tensor is None:
                yield Violation("initializers", f"initializer `{key}` has no tensor")
                continue
            if key != value.name:
                yield Violation("initializers", f"initializer `{value.name}` is filed as `{key}`")
            if value.dtype is not None and value.dtype != tensor.dtype:
                yield Violation(
                    "initializers", f"initializer `{key}` is {word(tensor.dtype)}, its value says {word(value.dtype)}"
                )
            shape = dims(value.shape)
            actual = tuple(tensor.shape.numpy())
            if shape is not None and shape != actual:
                yield Violation("initializers", f"initializer `{key}` has shape {actual}, its value says {shape}")


def check_acyclic(module: Module) -> Iterator[Violation]:
    """No value depends on itself."""
    for graph in model_graphs(module.model):
        node = find_cycle(graph)
        if node is not None:
            yield Violation("acyclic", f"`{node.outputs[0].name}` depends on itself", node.name or "")


def check_scopes(module: Module) -> Iterator[Violation]:
    """Every input of a node is a value of its own graph or of one around it."""
    for scope in _scopes(module):
        yield from _check_scope(scope, frozenset())


def _check_scope(graph: ir.Graph, outer: frozenset[ir.Value]) -> Iterator[Violation]:
    visible = outer | frozenset(graph_values(graph))
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in visible:
                yield Violation("scopes", f"reads `{value.name}`, which is not in scope", node.name or "")
        for inner in subgraphs_of(node):
            yield from _check_scope(inner, visible)


def check_sorted(module: Module) -> Iterator[Violation]:
    """Every node stands after the nodes whose outputs it, or a graph inside it, reads."""
    for graph in model_graphs(module.model):
        node = first_unsorted(graph)
        if node is not None:
            yield Violation("sorted", "stands before a node that it depends on", node.name or "")


def is_sorted(scope: ir.Graph) -> bool:
    """Say whether a graph and all graphs inside it are topologically sorted."""
    return all(first_unsorted(graph) is None for graph in nested_graphs(scope))


def first_unsorted(graph: ir.Graph) -> ir.Node | None:
    """Return the first node that stands before one it depends on."""
    seen: set[ir.Node] = set()
    for node in graph:
        for value in [*node.inputs, *captures(node)]:
            producer = value.producer() if value is not None else None
            if producer is not None and producer.graph is graph and producer not in seen:
                return node
        seen.add(node)
    return None


def find_cycle(graph: ir.Graph) -> ir.Node | None:
    """Return a node of one graph that can't be put in order, or None; sets aside what Kahn's algorithm can sort."""
    waiting: dict[ir.Node, set[ir.Node]] = {}
    users: dict[ir.Node, list[ir.Node]] = {}
    for node in graph:
        producers = set()
        for value in [*node.inputs, *captures(node)]:
            producer = value.producer() if value is not None else None
            if producer is not None and producer.graph is graph:
                producers.add(producer)
        waiting[node] = producers
        for producer in producers:
            users.setdefault(producer, []).append(node)
    ready = [node for node, producers in waiting.items() if not producers]
    while ready:
        done = ready.pop()
        del waiting[done]
        for user in users.get(done, ()):
            waiting[user].discard(done)
            if not waiting[user]:
                ready.append(user)
    return next(iter(waiting), None)
