"""The model of what `mopt show` says, and how it is read off a module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir
from mopt.analysis.cost import Cost, cost
from mopt.diff.model import TensorFacts, WeightFacts
from mopt.diff.prints import Prints
from mopt.diff.scope import Held
from mopt.diff.weights import facts
from mopt.ir import provenance
from mopt.ir.dtypes import dims, type_word
from mopt.ir.module import Module
from mopt.ir.walk import model_nodes, subgraphs_of
from mopt.ir.weights import is_constant

SCHEMA = "mopt.show"
VERSION = 1
"""Raised when a reader of the last version would misread the next; new fields do not raise it."""


@dataclass(frozen=True)
class OperatorCount:
    """How often an operator type stands in the model, and what all of its kind cost."""

    op: str
    nodes: int
    macs: int
    parameters: int


@dataclass(frozen=True)
class NodeFacts:
    """One node, or one layer of the source model: what it costs.

    `name` is the node's or the layer's, `op` its type (a layer's: its nodes' types), `nodes` how many nodes.
    """

    name: str
    op: str
    nodes: int
    macs: int
    parameters: int
    nonzero: int
    bytes: int


@dataclass(frozen=True)
class WeightUse:
    """A weight, and the types of the nodes that read it."""

    facts: WeightFacts
    users: tuple[str, ...]


@dataclass(frozen=True)
class DtypeTotal:
    """All weights of one element type."""

    dtype: str
    weights: int
    elements: int
    bytes: int


@dataclass(frozen=True)
class Body:
    """A graph inside a node: `If_3/then_branch`, and how many nodes are in it."""

    path: str
    nodes: int


@dataclass(frozen=True)
class ModelSummary:
    """What a module is.

    Attributes:
        label: what it is called: its file, or its step.
        ir_version, opsets, producer, metadata, functions: what the model says of itself.
        inputs, outputs: its interface; `dynamic`: names of dynamic dimensions, `bindings`: the sizes the cost is for.
        nodes: all nodes but Constant nodes, which `constants` counts (both with bodies and functions).
        parameters, nonzero, macs, bytes: totals, as `mopt.analysis.cost` counts; `unknown`: nodes whose MACs depend
            on the data.
        operators: by type, the most frequent first; `custom`: operator domains that are not ONNX's own.
        nodes_by_cost: by MACs, then by bytes; `layers_by_cost`: the same by the source model's layers, empty where
            provenance knows none.
        dtypes: totals of the weights by element type; `weights`: each, the largest first.
        stamped: nodes that carry provenance; `history`: steps and rules in it, with how many nodes each touched.
        bodies: graphs inside nodes.
    """

    label: str
    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    producer: str
    metadata: tuple[tuple[str, str], ...]
    functions: tuple[str, ...]
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    dynamic: tuple[str, ...]
    bindings: tuple[tuple[str, int], ...]
    nodes: int
    constants: int
    parameters: int
    nonzero: int
    macs: int
    bytes: int
    unknown: tuple[str, ...]
    operators: tuple[OperatorCount, ...]
    custom: tuple[str, ...]
    nodes_by_cost: tuple[NodeFacts, ...]
    layers_by_cost: tuple[NodeFacts, ...]
    dtypes: tuple[DtypeTotal, ...]
    weights: tuple[WeightUse, ...]
    stamped: int
    history: tuple[tuple[str, int], ...]
    bodies: tuple[Body, ...]

    @property
    def sparsity(self) -> float:
        """Share of parameters that are zero."""
        return 1 - self.nonzero / self.parameters if self.parameters else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        told = {"schema": SCHEMA, "version": VERSION, **asdict(self), "sparsity": self.sparsity}
        named = ("opsets", "metadata", "bindings", "history")
        plain = _plain(told)
        assert isinstance(plain, dict)
        return plain | {name: dict(getattr(self, name)) for name in named}


def summarise(module: Module, *, bindings: Mapping[str, int] | None, label: str, measured: bool) -> ModelSummary:
    """Read a summary off a module; `measured` looks into the weights' contents."""
    model = module.model
    totals = cost(module, bindings)
    every = list(model_nodes(model))
    operators = [node for node in every if not is_constant(node)]
    return ModelSummary(
        label=label or module.graph.name or "model",
        ir_version=model.ir_version,
        opsets=tuple(sorted((domain or "ai.onnx", version) for domain, version in model.opset_imports.items())),
        producer=" ".join(part for part in (model.producer_name, model.producer_version) if part),
        metadata=tuple(
            (key, text) for key, text in sorted(model.metadata_props.items()) if not key.startswith("mopt.")
        ),
        functions=tuple(f"{function.domain}::{function.name}" for function in model.functions.values()),
        inputs=tuple(TensorFacts(info.name, info.dtype, info.shape if info.ranked else None) for info in module.inputs),
        outputs=tuple(_tensor(value) for value in module.graph.outputs),
        dynamic=module.dynamic_dims(),
        bindings=tuple(totals.bindings.items()),
        nodes=len(operators),
        constants=len(every) - len(operators),
        parameters=totals.parameters,
        nonzero=totals.nonzero,
        macs=totals.macs,
        bytes=totals.bytes,
        unknown=totals.unknown,
        operators=_operators(operators, totals),
        custom=tuple(sorted({node.domain for node in operators if node.domain} - _own_functions(model))),
        nodes_by_cost=_by_node(operators, totals),
        layers_by_cost=_by_layer(operators, totals),
        dtypes=_dtypes(module),
        weights=_weights(module, measured=measured),
        stamped=sum(bool(provenance.origins(node)) for node in operators),
        history=tuple(Counter(entry for node in operators for entry in provenance.history(node)).most_common()),
        bodies=_bodies(module.graph, ""),
    )


def _tensor(value: ir.Value) -> TensorFacts:
    return TensorFacts(value.name or "", type_word(value.type), dims(value.shape))


def _operators(nodes: Iterable[ir.Node], totals: Cost) -> tuple[OperatorCount, ...]:
    kinds: dict[str, list[ir.Node]] = {}
    for node in nodes:
        kinds.setdefault(_type(node), []).append(node)
    counted = [
        OperatorCount(
            op,
            len(members),
            sum(totals.per_node[node.name or ""].macs for node in members),
            sum(totals.per_node[node.name or ""].parameters for node in members),
        )
        for op, members in kinds.items()
    ]
    return tuple(sorted(counted, key=lambda item: (-item.nodes, item.op)))


def _by_node(nodes: Iterable[ir.Node], totals: Cost) -> tuple[NodeFacts, ...]:
    return _ordered(_facts(node.name or "", [node], totals) for node in nodes)


def _by_layer(nodes: Iterable[ir.Node], totals: Cost) -> tuple[NodeFacts, ...]:
    layers: dict[str, list[ir.Node]] = {}
    for node in nodes:
        origins = provenance.origins(node)
        if origins:
            layers.setdefault(" + ".join(origins), []).append(node)
    return _ordered(_facts(name, members, totals) for name, members in layers.items())


def _facts(name: str, nodes: list[ir.Node], totals: Cost) -> NodeFacts:
    costs = [totals.per_node[node.name or ""] for node in nodes]
    return NodeFacts(
        name,
        ", ".join(dict.fromkeys(_type(node) for node in nodes)),
        len(nodes),
        sum(item.macs for item in costs),
        sum(item.parameters for item in costs),
        sum(item.nonzero for item in costs),
        sum(item.bytes for item in costs),
    )


def _ordered(found: Iterable[NodeFacts]) -> tuple[NodeFacts, ...]:
    return tuple(sorted(found, key=lambda item: (-item.macs, -item.bytes)))


def _dtypes(module: Module) -> tuple[DtypeTotal, ...]:
    totals: dict[str, list[int]] = {}
    for weight in module.weights():
        entry = totals.setdefault(weight.dtype, [0, 0, 0])
        entry[0] += 1
        entry[1] += weight.size
        entry[2] += weight.nbytes
    return tuple(sorted((DtypeTotal(dtype, *entry) for dtype, entry in totals.items()), key=lambda item: -item.bytes))


def _weights(module: Module, *, measured: bool) -> tuple[WeightUse, ...]:
    prints = Prints()
    known: dict[Any, WeightFacts] = {}
    found = []
    for weight in module.weights():
        held = Held(weight.value, weight.tensor, "initializer" if weight.node is None else "constant", own=True)
        look = measured and weight.size > 1
        key = prints.of(held.tensor) if look else None
        told = known.get(key) if key is not None else None
        told = told or facts(held, measured=look)
        if key is not None:
            known[key] = told
        told = WeightFacts(**{**told.__dict__, "name": weight.name, "stored": held.stored})
        users = tuple(dict.fromkeys(_type(node) for node, _ in weight.users))
        found.append(WeightUse(told, users))
    return tuple(sorted(found, key=lambda item: (-item.facts.bytes, item.facts.name)))


def _bodies(graph: ir.Graph, path: str) -> tuple[Body, ...]:
    found: list[Body] = []
    for node in graph:
        inner = subgraphs_of(node)
        names = [attribute.name for attribute in node.attributes.values() if attribute.type.name.startswith("GRAPH")]
        for index, body in enumerate(inner):
            name = names[index] if len(names) == len(inner) else f"graph {index}"
            here = f"{path}{node.name}/{name}"
            found += [Body(here, len([inside for inside in body if not is_constant(inside)]))]
            found += _bodies(body, f"{here}/")
    return tuple(found)


def _own_functions(model: ir.Model) -> set[str]:
    return {function.domain for function in model.functions.values()}


def _type(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
