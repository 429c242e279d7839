"""Which nodes of a module an operator of a runtime stands for, by the tensors it reads and writes.

Runtimes fuse, rename and lay out anew, but most tensors at the borders of what they fuse keep their names. An
operator stands for what computes its outputs from its inputs: backwards from each output to the first tensors that
some operator of the runtime hands on. No name of a node is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.ir import Module


@dataclass(frozen=True)
class Operator:
    """What a runtime runs as one: its name there, and the module's tensors that it writes."""

    name: str
    writes: tuple[str, ...]


def regions(module: Module, operators: Sequence[Operator]) -> dict[str, tuple[ir.Node, ...]]:
    """Return, for each operator's name, the nodes of the outermost graph that it stands for, in the graph's order.

    A node that several operators need and none of them writes (a constant, a shape) goes to the first. What no
    operator stands for was computed when the model was loaded.

    Args:
        module: the module that the runtime loaded.
        operators: in the order in which they run.
    """
    order = {node: place for place, node in enumerate(module.graph)}
    makers: dict[str, ir.Node] = {value.name: node for node in module.graph for value in node.outputs if value.name}
    written = {name for operator in operators for name in operator.writes}
    taken: set[ir.Node] = set()
    found: dict[str, tuple[ir.Node, ...]] = {}
    for operator in operators:
        mine = _behind(operator.writes, makers, written, taken)
        taken.update(mine)
        found[operator.name] = tuple(sorted(mine, key=order.__getitem__))
    return found


def _behind(
    outputs: Iterable[str], makers: Mapping[str, ir.Node], written: set[str], taken: set[ir.Node]
) -> set[ir.Node]:
    """Return what computes these tensors from tensors that operators of the runtime write."""
    mine: set[ir.Node] = set()
    waiting = [makers[name] for name in outputs if name in makers]
    while waiting:
        node = waiting.pop()
        if node in mine or node in taken:
            continue
        mine.add(node)
        for value in _read(node):
            if value in makers and value not in written:
                waiting.append(makers[value])
    return mine


def _read(node: ir.Node) -> list[str]:
    """Return the names of what a node reads, tensors of the outer graph that its bodies read included."""
    names = [value.name for value in node.inputs if value is not None and value.name]
    for attribute in node.attributes.values():
        graphs = (
            [attribute.value]
            if attribute.type.name == "GRAPH"
            else attribute.value
            if attribute.type.name == "GRAPHS"
            else []
        )
        for graph in graphs:
            for inner in graph:
                names.extend(_read(inner))
    return names
