"""Changing the graph: putting a replacement in, taking dead nodes and unused initializers out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir
from mopt.ir.walk import captures, subgraphs_of
from mopt.rewrite.rule import Replacement


class SurgeryError(Exception):
    """A replacement can't be put in; the graph is as it was."""


def apply(replacement: Replacement, anchor: ir.Node) -> Sequence[ir.Node]:
    """Put a replacement into the graph and return the nodes that came in. Old nodes stay until `drop_dead`.

    A graph output that is replaced keeps its name: the new value takes it over, or an `Identity` is put between
    where that can't be (the new value is an input, an initializer, or another output itself).

    Raises:
        SurgeryError: the replacement would only put an `Identity` where another trivial node stood.
    """
    at = replacement.at or anchor
    graph = at.graph
    if graph is None:
        raise SurgeryError("the anchor is in no graph")
    bridged = [
        (old, new)
        for old, new in replacement.values.items()
        if old.is_graph_output() and not _can_become_output(old, new, replacement.added)
    ]
    if bridged and not replacement.added and anchor.op_type == "Identity":
        raise SurgeryError("an output needs a node of its own")
    for value in replacement.constants:
        graph.initializers[str(value.name)] = value
    added = list(replacement.added)
    graph.insert_before(at, added)
    # The new values can take the names of the old ones, which are about to go: names stay stable for a reader.
    bridges = set()
    for old, new in bridged:
        bridge = ir.Node("", "Identity", [new], name=old.name)
        bridge.outputs[0].type, bridge.outputs[0].shape = old.type, old.shape
        graph.insert_before(at, bridge)
        added.append(bridge)
        bridges.add(old)
        _swap(old, bridge.outputs[0], graph)
        _redirect(old, new)
    for old, new in replacement.values.items():
        if old in bridges:
            continue
        if old.is_graph_output():
            _swap(old, new, graph)
        elif new.producer() in replacement.added and old.name and new.index() is not None:
            old.name, new.name = f"{old.name}_replaced", old.name
        if new.producer() in replacement.added:
            # A node copied from another one came with that one's type and shape.
            new.type, new.shape = old.type or new.type, old.shape or new.shape
        _redirect(old, new)
    return added


def drop_dead(nodes: Iterable[ir.Node]) -> Iterator[ir.Node]:
    """Take out those of the nodes, and of what they read, that nothing reads; yield each."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node.graph is None or any(output.uses() or output.is_graph_output() for output in node.outputs):
            continue
        sources = [value.producer() for value in (*node.inputs, *captures(node)) if value is not None]
        for inner in subgraphs_of(node):
            _release(inner)
        node.graph.remove(node, safe=True)
        pending.extend(source for source in sources if source is not None)
        yield node


def drop_unused_initializers(graph: ir.Graph) -> int:
    """Take out initializers that nothing reads and that are neither inputs nor outputs; return how many."""
    gone = [
        name
        for name, value in graph.initializers.items()
        if not value.uses() and not value.is_graph_input() and not value.is_graph_output()
    ]
    for name in gone:
        del graph.initializers[name]
    return len(gone)


def _release(graph: ir.Graph) -> None:
    """Detach a graph that goes away from the outer values it reads."""
    for node in list(graph):
        for inner in subgraphs_of(node):
            _release(inner)
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)


def _can_become_output(old: ir.Value, new: ir.Value, added: Sequence[ir.Node]) -> bool:
    producer = new.producer()
    if producer is None or new.is_graph_output() or new.is_initializer():
        return False
    home = producer.graph
    old_producer = old.producer()
    return producer in added or (home is not None and old_producer is not None and home is old_producer.graph)


def _swap(old: ir.Value, new: ir.Value, graph: ir.Graph) -> None:
    """Make `new` the graph output that `old` was, under its name, type and shape."""
    name = old.name
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
    old.name = f"{name}_replaced"
    new.name = name
    new.type, new.shape = old.type or new.type, old.shape or new.shape


def _redirect(old: ir.Value, new: ir.Value) -> None:
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)
