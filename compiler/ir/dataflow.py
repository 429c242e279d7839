"""The dataflow view: one graph of a module as a `networkx.MultiDiGraph`. An index, never a second truth.

Nodes, in a stable order, each with the attribute `kind`:

- `"input"`, `"initializer"`: the `onnx_ir.Value` itself;
- `"capture"`: an `onnx_ir.Value` of an outer graph, in the view of an inner graph;
- `"node"`: the `onnx_ir.Node`;
- `"output"`: an `Output`, one for each graph output.

Edges run from producer to consumer, one for each use (`Mul(a, a)` has two), keyed `(output, input)` with the
attributes `value` (the `onnx_ir.Value`), `output` (which output of the producer; 0 for a value that has none),
`input` (which input of the consumer) and `captured`. What the graphs inside an `If`, `Loop` or `Scan` use from
outside arrives at the node that owns them, with `captured=True` and inputs counted on after the node's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import networkx
import onnx_ir as ir
from mopt.ir.walk import captures

Vertex: TypeAlias = "ir.Node | ir.Value | Output"


@dataclass(frozen=True)
class Output:
    """A graph output as a sink of the dataflow view."""

    name: str
    index: int


def build(graph: ir.Graph) -> networkx.MultiDiGraph:
    """Derive the view of one graph."""
    view = networkx.MultiDiGraph()
    for value in graph.inputs:
        view.add_node(value, kind="input")
    for value in graph.initializers.values():
        if not value.is_graph_input():
            view.add_node(value, kind="initializer")
    own = set(graph)
    for node in graph:
        view.add_node(node, kind="node")
    for node in graph:
        for index, used in enumerate(node.inputs):
            if used is not None:
                _connect(view, own, used, node, index, captured=False)
        for extra, used in enumerate(captures(node)):
            if used.graph is graph or used not in view:
                _connect(view, own, used, node, len(node.inputs) + extra, captured=True)
    for index, value in enumerate(graph.outputs):
        sink = Output(value.name or "", index)
        view.add_node(sink, kind="output")
        _connect(view, own, value, sink, 0, captured=False)
    return view


def _connect(
    view: networkx.MultiDiGraph, own: set[ir.Node], value: ir.Value, consumer: Vertex, index: int, *, captured: bool
) -> None:
    producer = value.producer()
    source: Vertex = producer if producer in own and producer is not None else value
    if source not in view:
        view.add_node(source, kind="capture")
    output = (value.index() or 0) if source is producer else 0
    view.add_edge(source, consumer, key=(output, index), value=value, output=output, input=index, captured=captured)
