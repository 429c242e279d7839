"""Cutting a graph between two runtimes: the fewest parts for the one that refuses some nodes.

Parts run one after the other, so each is convex and the parts form no cycle. `alternate` is the problem on a plain
graph; `partition` puts it to a module's dataflow view, where constants and arithmetic on shapes belong to nobody:
they travel with whoever uses them, so that no part waits for a shape that another computes.

Fewest: with R(v) the most accepted parts that a path from v passes (its own included), max R parts are needed, since a
refused node between two accepted ones keeps them apart. Running every accepted node as soon as it can, and refused ones
only when one is due (before the R(v)-th accepted part from the end), takes no more.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import networkx
import onnx_ir as ir
from mopt.ir.walk import subgraphs_of

if TYPE_CHECKING:
    from mopt.ir import Module

SMALLEST: Final = 8
"""Nodes from which on a part is worth running elsewhere although it holds no convolution or product."""
_HEAVY: Final = frozenset(
    {"Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "MatMulNBits", "RNN"}
)
_RANDOM: Final = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_SHAPES: Final = frozenset({"Shape", "Size"})


@dataclass(frozen=True)
class Part:
    """Nodes of the main graph that run together.

    Attributes:
        accepted: they are none of the refused ones.
        nodes: those that run in no other part, in the graph's order.
        carried: constants and arithmetic on shapes that they use, which other parts may hold as well.
        inputs: values of the graph's interface or of earlier parts.
        outputs: values that later parts or the graph's interface take.
    """

    accepted: bool
    nodes: tuple[ir.Node, ...]
    carried: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]


def partition(module: Module, refused: Collection[ir.Node], *, smallest: int = SMALLEST) -> tuple[Part, ...]:
    """Cut the main graph into parts that run in this order, refused nodes apart from the others.

    Args:
        module: the graph.
        refused: nodes of its main graph.
        smallest: an accepted part of fewer nodes and without a convolution or product is not worth its change of
            runtime: its nodes run with the refused ones.

    Returns:
        The fewest accepted parts there can be, and the fewest others between them.
    """
    view = module.dataflow()
    carried = _carried(module, view, refused)
    graph = networkx.DiGraph()
    own = [node for node in module.graph if node not in carried]
    graph.add_nodes_from(own)
    for node in own:
        graph.add_edges_from((source, node) for source in _sources(view, node, carried))
    aside = set(refused)
    while True:
        groups = alternate(graph, [node for node in own if node not in aside])
        small: list[tuple[ir.Node, ...]] = [
            nodes
            for accepted, nodes in groups
            if accepted and len(nodes) < smallest and not any(node.op_type in _HEAVY for node in nodes)
        ]
        if not small:
            break
        least = min(small, key=len)
        aside.update(least)
    return _interfaces(module, view, groups, carried)


def isolate(module: Module, nodes: Collection[ir.Node], refused: Collection[ir.Node] = ()) -> Part:
    """Return some nodes of the main graph as an accepted part, whatever it costs: which ones make a part fail?

    Args:
        module: the graph.
        nodes: a convex set of them.
        refused: as for `partition`.
    """
    view = module.dataflow()
    carried = _carried(module, view, refused)
    rest = tuple(node for node in module.graph if node not in nodes and node not in carried)
    return _interfaces(module, view, [(True, tuple(nodes)), (False, rest)], carried)[0]


def alternate(graph: networkx.DiGraph, accepted: Collection[Hashable]) -> list[tuple[bool, tuple[Any, ...]]]:
    """Cut an acyclic graph into groups, accepted or not, that can run in this order; see the module's text.

    Returns:
        Each group's kind and members, both in the order of the graph's nodes as far as its edges allow.
    """
    place = {node: index for index, node in enumerate(graph)}
    order = list(networkx.lexicographical_topological_sort(graph, key=place.__getitem__))
    chosen = set(accepted)
    behind: dict[Hashable, int] = {}
    for node in reversed(order):
        found = [behind[after] + (node in chosen and after not in chosen) for after in graph.successors(node)]
        behind[node] = max([*found, int(node in chosen)])
    last = max(behind.values(), default=0)
    done: set[Hashable] = set()
    groups: list[tuple[bool, tuple[Any, ...]]] = []

    def run(kind: bool) -> None:
        members = []
        for node in order:
            ready = node not in done and (node in chosen) is kind
            if ready and all(before in done for before in graph.predecessors(node)):
                done.add(node)
                members.append(node)
        if members:
            groups.append((kind, tuple(members)))

    for stage in range(last + 1):
        if any(node not in done and node not in chosen and last - behind[node] == stage for node in order):
            run(False)
        run(True)
    return groups


def _carried(module: Module, view: networkx.MultiDiGraph, refused: Collection[ir.Node]) -> set[ir.Node]:
    """Find constants and arithmetic on shapes: cheap, the same wherever it runs, and no output of the graph."""
    outputs = set(module.graph.outputs)
    found: set[ir.Node] = set()
    for node in module.graph:
        if node in refused or node.op_type in _RANDOM or subgraphs_of(node) or outputs & set(node.outputs):
            continue
        used = [source for source, _ in view.in_edges(node)]
        if node.op_type in _SHAPES or all(
            source in found or view.nodes[source]["kind"] == "initializer" for source in used
        ):
            found.add(node)
    return found


def _sources(view: networkx.MultiDiGraph, node: ir.Node, carried: Collection[ir.Node]) -> Iterator[ir.Node]:
    """Yield the nodes that must have run before one can, looking through those that are carried."""
    stack, seen = [node], {node}
    while stack:
        for source, _ in view.in_edges(stack.pop()):
            if view.nodes[source]["kind"] != "node" or source in seen:
                continue
            seen.add(source)
            if source in carried:
                stack.append(source)
            else:
                yield source


def _interfaces(
    module: Module,
    view: networkx.MultiDiGraph,
    groups: Iterable[tuple[bool, tuple[ir.Node, ...]]],
    carried: Collection[ir.Node],
) -> tuple[Part, ...]:
    position = {node: index for index, node in enumerate(module.graph)}
    drafts = []
    for accepted, members in groups:
        along: set[ir.Node] = set()
        used: dict[ir.Value, None] = {}
        stack = list(members)
        while stack:
            node = stack.pop(0)
            for source, _, data in view.in_edges(node, data=True):
                if source in carried:
                    if source not in along:
                        along.add(source)
                        stack.append(source)
                elif view.nodes[source]["kind"] != "initializer" and source not in members:
                    used[data["value"]] = None
        drafts.append((accepted, members, sorted(along, key=position.__getitem__), tuple(used)))
    wanted = {value for *_, inputs in drafts for value in inputs} | set(module.graph.outputs)
    return tuple(
        Part(
            accepted,
            tuple(sorted(members, key=position.__getitem__)),
            tuple(along),
            inputs,
            tuple(value for node in members for value in node.outputs if value in wanted),
        )
        for accepted, members, along, inputs in drafts
    )
