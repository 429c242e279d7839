"""One graph of a module, indexed for matching: operators by number, and what stands in every input slot.

A scope is the main graph, a body of an `If`, `Loop` or `Scan`, or a function. Constant nodes are weights here, not
operators: exporters differ in where they keep weights, and the difference is no difference in what is computed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal, NamedTuple

import onnx_ir as ir
from mopt.diff.attributes import effective_attributes, operator_type
from mopt.diff.prints import Prints, dims
from mopt.ir.walk import captures


class Kind(IntEnum):
    """What an input slot reads."""

    ABSENT = 0
    NODE = 1
    WEIGHT = 2
    INPUT = 3
    OUTER = 4


class Source(NamedTuple):
    """What an input slot reads: which operator's which output, which weight, which graph input or outer value."""

    kind: Kind
    number: int = 0
    output: int = 0


class Use(NamedTuple):
    """Who reads a value: which operator, in which slot. Slots past its inputs are captures of its bodies."""

    operator: int
    slot: int


ABSENT = Source(Kind.ABSENT)

COMMUTATIVE = frozenset({"Add", "Mul", "And", "Or", "Xor", "Max", "Min", "Sum", "Mean", "Equal", "BitwiseAnd"})


@dataclass(eq=False)
class Held:
    """A weight in a scope: the value, its tensor, and how the model stores it."""

    value: ir.Value
    tensor: ir.TensorProtocol
    stored: Literal["initializer", "constant"]
    own: bool
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.shape = dims(self.tensor)  # asked for often, and slow to ask the tensor for


class Scope:
    """See the module's docstring. All lists are indexed by operator number (topological, stable)."""

    def __init__(
        self, graph: ir.Graph | ir.Function, path: str, parent: Scope | None, opsets: dict[str, int], prints: Prints
    ) -> None:
        self.graph, self.path, self.parent, self.opsets = graph, path, parent, opsets
        self.operators: list[ir.Node] = []
        self.sources: list[list[Source]] = []
        self.explicit: list[int] = []
        self.types: list[str] = []
        self.attributes: list[dict[str, str]] = []
        self.shapes: list[tuple[int | None, ...] | None] = []
        self.bodies: list[dict[str, Scope]] = []
        self.weights: list[Held] = []
        self.outer: list[ir.Value] = []
        self.where: dict[ir.Value, Source] = {}
        self.inputs = [value for value in graph.inputs if not value.is_initializer()]
        self._index(prints)
        self.uses: dict[Source, list[Use]] = {}
        for number, slots in enumerate(self.sources):
            for slot, source in enumerate(slots):
                if source.kind != Kind.ABSENT:
                    self.uses.setdefault(source, []).append(Use(number, slot))
        self.outputs = [self.resolve(value) for value in graph.outputs]
        self.exits: dict[Source, list[int]] = {}
        for position, source in enumerate(self.outputs):
            self.exits.setdefault(source, []).append(position)

    def version(self, node: ir.Node) -> int:
        """Return the opset version that gives an operator its meaning."""
        return node.version or self.opsets.get(node.domain, 1)

    def resolve(self, value: ir.Value | None) -> Source:
        """Return what a value is in this scope; values of outer scopes are numbered as they come up."""
        if value is None or (not value.name and value.producer() is None):
            return ABSENT
        found = self.where.get(value)
        if found is None:
            held = self._outer_weight(value)
            if held is not None:
                found = Source(Kind.WEIGHT, len(self.weights))
                self.weights.append(held)
            else:
                found = Source(Kind.OUTER, len(self.outer))
                self.outer.append(value)
            self.where[value] = found
        return found

    def value(self, source: Source) -> ir.Value | None:
        """Return the value behind a source."""
        if source.kind == Kind.NODE:
            outputs = self.operators[source.number].outputs
            return outputs[source.output] if source.output < len(outputs) else None
        if source.kind == Kind.WEIGHT:
            return self.weights[source.number].value
        if source.kind == Kind.INPUT:
            return self.inputs[source.number]
        return self.outer[source.number] if source.kind == Kind.OUTER else None

    def feeds(self, source: Source) -> list[Use]:
        """Return the uses of a value inside this scope."""
        return self.uses.get(source, [])

    def _outer_weight(self, value: ir.Value) -> Held | None:
        scope = self.parent
        while scope is not None:
            source = scope.where.get(value)
            if source is not None and source.kind == Kind.WEIGHT:
                held = scope.weights[source.number]
                return Held(value, held.tensor, held.stored, own=False)
            scope = scope.parent
        return None

    def _index(self, prints: Prints) -> None:
        for position, value in enumerate(self.inputs):
            self.where[value] = Source(Kind.INPUT, position)
        for value in _initializers(self.graph):
            if value.const_value is not None:
                self._hold(value, value.const_value, "initializer")
        operators = []
        for node in _ordered(self.graph):
            tensor = constant_tensor(node)
            if tensor is not None:
                self._hold(node.outputs[0], tensor, "constant")
            else:
                operators.append(node)
        for number, node in enumerate(operators):
            for position, value in enumerate(node.outputs):
                self.where[value] = Source(Kind.NODE, number, position)
        self.operators = operators
        for node in operators:
            self.types.append(operator_type(node))
            self.attributes.append(effective_attributes(node, self.version(node), prints))
            self.shapes.append(_shape(node))
            bodies = {
                name: Scope(body, f"{self.path}/{node.name}/{name}".lstrip("/"), self, self.opsets, prints)
                for name, body in _bodies(node)
            }
            self.bodies.append(bodies)
            slots = [self.resolve(value) for value in node.inputs]
            while slots and slots[-1].kind == Kind.ABSENT:
                slots.pop()
            self.explicit.append(len(slots))
            slots += [source for source in map(self.resolve, _captured(bodies)) if source.kind != Kind.WEIGHT]
            self.sources.append(slots)

    def _hold(self, value: ir.Value, tensor: Any, stored: Literal["initializer", "constant"]) -> None:
        self.where[value] = Source(Kind.WEIGHT, len(self.weights))
        self.weights.append(Held(value, tensor, stored, own=True))


def constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """Return what a Constant node holds; None for other nodes, sparse constants and attributes of functions."""
    if node.op_type != "Constant" or node.domain or len(node.outputs) != 1 or len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref() or attribute.name == "sparse_value":
        return None
    return ir.convenience.get_const_tensor(node.outputs[0])


def nested_count(scope: Scope, number: int) -> int:
    """Return how many operators stand inside an operator's bodies."""
    return sum(
        len(body.operators) + sum(nested_count(body, inner) for inner in range(len(body.operators)))
        for body in scope.bodies[number].values()
    )


def _initializers(graph: ir.Graph | ir.Function) -> list[ir.Value]:
    return list(graph.initializers.values()) if isinstance(graph, ir.Graph) else []


def _bodies(node: ir.Node) -> list[tuple[str, ir.Graph]]:
    found: list[tuple[str, ir.Graph]] = []
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            found.append((attribute.name, attribute.as_graph()))
        elif attribute.type == ir.AttributeType.GRAPHS:
            found += [(f"{attribute.name}[{i}]", graph) for i, graph in enumerate(attribute.as_graphs())]
    return found


def _shape(node: ir.Node) -> tuple[int | None, ...] | None:
    """Return the shape of the first output where the model says it; names of dimensions mean nothing elsewhere."""
    shape = node.outputs[0].shape if node.outputs else None
    return None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape)


def _captured(bodies: dict[str, Scope]) -> list[ir.Value]:
    return list({value: None for body in bodies.values() for value in body.outer})


def _ordered(graph: ir.Graph | ir.Function) -> list[ir.Node]:
    """Return the nodes in topological order, as close to the graph's own as that allows."""
    nodes = list(graph)
    place = {node: position for position, node in enumerate(nodes)}
    needs = [0] * len(nodes)
    readers: list[list[int]] = [[] for _ in nodes]
    sorted_already = True
    for position, node in enumerate(nodes):
        reads = [value for value in node.inputs if value is not None] + captures(node)
        for producer in {value.producer() for value in reads}:
            if producer is not None and producer in place:
                needs[position] += 1
                readers[place[producer]].append(position)
                sorted_already = sorted_already and place[producer] < position
    if sorted_already:
        return nodes
    ready = deque(position for position, count in enumerate(needs) if not count)
    ordered = []
    while ready:
        position = ready.popleft()
        ordered.append(nodes[position])
        for reader in readers[position]:
            needs[reader] -= 1
            if not needs[reader]:
                ready.append(reader)
    # A cycle (an invalid model, which can still be looked at) leaves nodes over.
    placed = set(ordered)
    return ordered + [node for node in nodes if node not in placed]
