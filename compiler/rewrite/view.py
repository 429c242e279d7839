"""What a rule may ask about a module: the dataflow view, live use-def chains, constants and symbolic shapes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from mopt.ir.walk import nested_graphs, subgraphs_of
from mopt.rewrite.constants import Array, any_constant, constant_array, uniform_fill
from mopt.rewrite.symbolic import Content, Shape, Symbolic

if TYPE_CHECKING:
    import networkx
    from mopt.ir.module import Module


class View:
    """The index over a module that rules match against, derived once per sweep of the driver.

    Candidates are chosen on the networkx dataflow graph, which is as old as the sweep; uses, producers and constants
    are then read live off the IR, so that a rule's conditions hold at the moment it is applied. Shapes and contents
    of new nodes are added as they come.

    Args:
        module: the module to look at.
        max_growth: bytes by which a rule may enlarge the file for one constant it computes.
    """

    def __init__(self, module: Module, *, max_growth: int = 1 << 20) -> None:
        self.module = module
        self.max_growth = max_growth
        self.symbolic = Symbolic()
        self.symbolic.infer_graph(module.graph)
        self._names = {value.name for graph in nested_graphs(module.graph) for value in _values(graph)}
        self._counter = itertools.count()
        self._twins: dict[ir.Value, ir.Value] | None = None
        self._positions: dict[ir.Node, int] | None = None
        self._before: dict[ir.Node, frozenset[str]] = {}
        for inner in nested_graphs(module.graph):
            self._index(module.dataflow(inner))

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return self.module.opset

    @property
    def graph(self) -> networkx.MultiDiGraph:
        """The dataflow view of the main graph, as `mopt.ir.dataflow` describes it."""
        return self.module.dataflow()

    def _index(self, graph: networkx.MultiDiGraph) -> None:
        for vertex, kind in graph.nodes(data="kind"):
            if kind == "node":
                self._before[vertex] = frozenset(filter(None, map(_operator, graph.predecessors(vertex))))

    def follows(self, node: ir.Node, operators: Sequence[str]) -> bool:
        """Say whether one of the operators stands directly before a node in the dataflow view.

        True also for a node that came in, or whose surroundings changed, since the view was derived.
        """
        before = self._before.get(node)
        return before is None or not before.isdisjoint(operators)

    def forget(self, nodes: Iterable[ir.Node]) -> None:
        """Say that the surroundings of nodes changed: the dataflow view is no longer asked about them."""
        for node in nodes:
            self._before.pop(node, None)

    # --- use-def chains, live

    def producer(self, value: ir.Value | None, *operators: str) -> ir.Node | None:
        """Return the node that computes a value, if it is one of the default domain's operators given (none: any)."""
        node = None if value is None else value.producer()
        if node is None or node.domain not in ("", "ai.onnx") or (operators and node.op_type not in operators):
            return None
        return node

    def users(self, value: ir.Value) -> list[ir.Node]:
        """Return the nodes that read a value, once for each use."""
        return [use.node for use in value.uses()]

    def only_used_by(self, value: ir.Value, node: ir.Node) -> bool:
        """Say whether `node` is the one reader of a value, which is no graph output either."""
        uses = value.uses()
        return len(uses) == 1 and next(iter(uses)).node is node and not value.is_graph_output()

    def only_user(self, value: ir.Value, *operators: str) -> ir.Node | None:
        """Return the one reader of a value that is no graph output, in the same graph; else None."""
        uses = value.uses()
        if len(uses) != 1 or value.is_graph_output():
            return None
        node = next(iter(uses)).node
        producer = value.producer()
        if operators and (node.op_type not in operators or node.domain not in ("", "ai.onnx")):
            return None
        return node if producer is None or producer.graph is node.graph else None

    # --- constants

    def constant(self, value: ir.Value | None) -> Array | None:
        """Return a constant's elements; None for anything else (a compressed constant, too)."""
        return constant_array(value)

    def any_constant(self, value: ir.Value | None) -> Array | None:
        """Return a constant's elements, those of a compressed constant (`ConstantOfShape`) included."""
        return any_constant(value)

    def is_compressed(self, value: ir.Value | None) -> bool:
        """Say whether a value is a `ConstantOfShape` over a constant."""
        return uniform_fill(value) is not None

    def scalar(self, value: ir.Value | None) -> float | None:
        """Return the one element of a constant (of any rank); None for anything else."""
        array = any_constant(value)
        return (
            float(array.reshape(-1)[0]) if array is not None and array.size == 1 and array.dtype.kind != "V" else None
        )

    def duplicate_constants(self) -> dict[ir.Value, ir.Value]:
        """Return for each initializer that repeats an earlier one (of its own or an outer graph) that earlier one."""
        if self._twins is None:
            self._twins = {}
            _find_twins(self.module.graph, {}, self._twins)
        return self._twins

    def position(self, node: ir.Node) -> int | None:
        """Return where a node stood in the topological order when the sweep began; None for a newer node."""
        if self._positions is None:
            self._positions = {known: index for index, known in enumerate(self.module.nodes())}
        return self._positions.get(node)

    # --- shapes

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Return the symbolic dimensions of a value, or None."""
        return self.symbolic.shape(value)

    def content(self, value: ir.Value | None) -> Content | None:
        """Return the symbolic elements of a small integer tensor, or None."""
        return self.symbolic.content(value)

    def numbers(self, value: ir.Value | None) -> list[int] | None:
        """Return the elements of a small integer tensor where all are known, or None."""
        return self.symbolic.numbers(value)

    def rank(self, value: ir.Value | None) -> int | None:
        """Return the number of dimensions, or None."""
        shape = self.symbolic.shape(value)
        return None if shape is None else len(shape)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the element type, or None."""
        return self.symbolic.dtype(value)

    # --- building

    def name(self, base: str) -> str:
        """Return a value or node name that nothing in the module has."""
        name = base
        while name in self._names:
            name = f"{base}_{next(self._counter)}"
        self._names.add(name)
        return name

    def initializer(self, base: str, array: Array) -> ir.Value:
        """Return a new initializer, still to be listed in the replacement's `constants`."""
        name = self.name(base)
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        tensor = ir.Tensor(contiguous, ir.DataType.from_numpy(contiguous.dtype), name=name)
        return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)

    def node(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        *,
        like: ir.Value | None = None,
        outputs: int = 1,
    ) -> ir.Node:
        """Return a new node of the default domain.

        Args:
            operator: its operator.
            inputs: the values it reads.
            attributes: Python values; None values are left out.
            like: the value its output takes the place of: gives names, type and shape.
            outputs: how many outputs it has.
        """
        given = [ir.convenience.convert_attribute(k, v) for k, v in (attributes or {}).items() if v is not None]
        base = (like.name if like is not None else None) or operator.lower()
        results = [ir.Value(name=self.name(f"{base}_{operator.lower()}")) for _ in range(outputs)]
        if like is not None:
            results[0].type, results[0].shape = like.type, like.shape
        return ir.Node("", operator, inputs, given, outputs=results, name=results[0].name)

    def copy(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], attributes: dict[str, Any] | None = None
    ) -> ir.Node:
        """Return a new node like `node` with other inputs, and attributes changed (a None value removes one)."""
        changed = attributes or {}
        kept = [attribute for name, attribute in node.attributes.items() if name not in changed]
        kept += [ir.convenience.convert_attribute(k, v) for k, v in changed.items() if v is not None]
        results = []
        for output in node.outputs:
            name = self.name(f"{output.name or 'value'}_new") if output.name else ""
            results.append(ir.Value(name=name, type=output.type, shape=output.shape))
        return ir.Node(node.domain, node.op_type, inputs, kept, outputs=results, name=node.name)


def _operator(vertex: object) -> str | None:
    if isinstance(vertex, ir.Node):
        return vertex.op_type
    # What an inner graph captures is a value there; the node that computes it stands in an outer graph.
    producer = vertex.producer() if isinstance(vertex, ir.Value) else None
    return None if producer is None else producer.op_type


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs


_LARGEST_TWIN = 4 << 20
"""Bytes up to which initializers are compared: reading every weight of a large model costs more than it saves."""


def _find_twins(graph: ir.Graph, outer: dict[tuple[Any, ...], list[ir.Value]], twins: dict[ir.Value, ir.Value]) -> None:
    seen = {key: list(values) for key, values in outer.items()}
    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output() or tensor.nbytes > _LARGEST_TWIN:
            continue
        if tensor.dtype == ir.DataType.STRING:
            continue
        group = seen.setdefault((tensor.dtype, tuple(tensor.shape)), [])
        content = tensor.tobytes() if group else b""
        for other in group:
            if other.const_value is not None and other.const_value.tobytes() == content:
                twins[value] = other
                break
        else:
            group.append(value)
    for node in graph:
        for inner in subgraphs_of(node):
            _find_twins(inner, seen, twins)
