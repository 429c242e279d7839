"""What a module costs: parameters, non-zero parameters, multiply-accumulates, bytes of weights; per node, in total.

- A weight that several nodes use counts once, for its first user. Weights of functions count once, not per call.
- Of the branches of an `If` the costliest counts for MACs (one of them runs), or the one taken where the shapes decide
  which; the parameters of all count (all are stored). The body of a `Loop` counts as often as it runs where that is a
  constant, else once; that of a `Scan` as often as its sequence is long.
- A call of a function costs what its body does, and is listed under the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import onnx_ir.passes.common as ir_passes
from mopt.analysis import macs as _macs
from mopt.analysis.codebook import codebook_parameters
from mopt.analysis.parameters import count_parameters
from mopt.analysis.sizes import Sizes, bind, resolve
from mopt.ir.module import Module
from mopt.ir.walk import model_nodes, nested_nodes, subgraphs_of
from mopt.ir.weights import constant_tensor, is_constant

_OWNER = "mopt.cost.owner"


@dataclass(frozen=True)
class NodeCost:
    """What one node costs. Weights are listed under their first user."""

    op_type: str
    macs: int = 0
    parameters: int = 0
    nonzero: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Cost:
    """What a module costs.

    Attributes:
        parameters: learned numbers (see `Weight.is_parameter`), each stored one counted once.
        nonzero: those that are not zero; of quantised ones those that differ from their zero point.
        macs: multiply-accumulates of one run at `bindings`.
        bytes: size of all constant tensors, shapes and scales included.
        per_node: the same by node name, in graph order.
        bindings: the size taken for each dynamic dimension of the inputs.
        unknown: nodes whose MACs could not be counted, since a shape depends on the data (or on a `Loop`, whose
            results may change shape in every round).
    """

    parameters: int
    nonzero: int
    macs: int
    bytes: int
    per_node: Mapping[str, NodeCost] = field(repr=False)
    bindings: Mapping[str, int] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()


def cost(module: Module, bindings: Mapping[str, int] | None = None) -> Cost:
    """Count a module.

    Args:
        module: what to count; it is not changed.
        bindings: sizes of the inputs' dynamic dimensions, by name; others get the defaults of
            `mopt.analysis.sizes.bind`, and `Cost.bindings` says which.
    """
    bound = bind(module, bindings or {})
    counted = _Macs(module, bound)
    stored = codebook_parameters(module)
    parameters: dict[str, tuple[int, int, int]] = {}
    seen: set[int] = set()
    totals = [0, 0, 0]
    for weight in module.weights():
        if id(weight.tensor) in seen:
            continue
        if weight.node is None or "value" in weight.node.attributes:
            seen.add(id(weight.tensor))
        number, nonzero = stored.get(weight.value) or count_parameters(weight)
        figures = (number, nonzero, weight.nbytes)
        totals = [total + figure for total, figure in zip(totals, figures, strict=True)]
        owner = weight.users[0][0] if weight.users else weight.node
        if owner is not None:
            before = parameters.get(owner.name or "", (0, 0, 0))
            parameters[owner.name or ""] = (before[0] + number, before[1] + nonzero, before[2] + weight.nbytes)
    per_node = {
        node.name or "": NodeCost(
            node.op_type, counted.by_node.get(node.name or "", 0), *parameters.get(node.name or "", (0, 0, 0))
        )
        for node in model_nodes(module.model)
    }
    unknown = tuple(name for name in per_node if name in counted.unknown)
    return Cost(totals[0], totals[1], counted.total, totals[2], per_node, bound, unknown)


class _Macs:
    """Counts MACs on a copy whose dimensions are bound, whose functions are inlined and whose shapes are resolved."""

    def __init__(self, module: Module, bound: Mapping[str, int]) -> None:
        self.by_node: dict[str, int] = {}
        self.unknown: set[str] = set()
        copy = module.clone()
        if copy.model.functions:
            for node in nested_nodes(copy.graph):
                node.metadata_props[_OWNER] = node.name or ""
            ir_passes.InlinePass()(copy.model)
            copy = Module(copy.model)
        self._trips = {node.name: _trip_count(node) for node in nested_nodes(copy.graph) if node.op_type == "Loop"}
        self._sizes: Sizes = resolve(copy, bound)
        self.total = self._graph(copy.graph, 1)

    def _graph(self, graph: ir.Graph, times: int) -> int:
        total = 0
        for node in graph:
            name = node.metadata_props.get(_OWNER) or node.name or ""
            try:
                own = times * _macs.count(node, self._shapes(node.inputs), self._shapes(node.outputs))
            except (_macs.UnknownSize, ValueError, IndexError):
                own = 0
                self.unknown.add(name)
            self.by_node[name] = self.by_node.get(name, 0) + own
            total += own + self._inside(node, times)
        return total

    def _inside(self, node: ir.Node, times: int) -> int:
        inner = subgraphs_of(node)
        if not inner:
            return 0
        if node.op_type == "If":
            return max(self._graph(graph, times) for graph in inner)
        rounds = 1
        if node.op_type == "Loop":
            rounds = self._trips.get(node.name) or 1
        elif node.op_type == "Scan":
            rounds = self._scan_length(node)
        return sum(self._graph(graph, times * rounds) for graph in inner)

    def _scan_length(self, node: ir.Node) -> int:
        scanned = node.attributes.get_int("num_scan_inputs", 0)
        if not scanned or node.inputs[-1] is None:
            return 1
        axes = node.attributes.get_ints("scan_input_axes") or [0] * scanned
        shape = self._sizes.get(node.inputs[-1])
        return (shape[axes[-1]] if shape else None) or 1

    def _shapes(self, values: Sequence[ir.Value | None]) -> list[tuple[int, ...] | None]:
        found: list[tuple[int, ...] | None] = []
        for value in values:
            shape = self._sizes.get(value) if value is not None else None
            complete = tuple(dim for dim in shape if dim is not None) if shape is not None else None
            found.append(complete if shape is not None and complete == shape else None)
        return found


def _trip_count(node: ir.Node) -> int | None:
    value = node.inputs[0] if node.inputs else None
    if value is None:
        return None
    if value.const_value is not None:
        return int(value.const_value.numpy().reshape(-1)[0])
    producer = value.producer()
    if producer is not None and is_constant(producer):
        return int(constant_tensor(producer).numpy().reshape(-1)[0])
    return None
