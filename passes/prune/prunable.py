"""Which weights can be pruned: what each constant is to the nodes that read it, and what the recipe says of it."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir
from mopt.analysis.codebook import codebooks
from mopt.ir import Module, provenance
from mopt.ir.weights import Weight

KERNEL: Final = "kernel"
_ROLES: Final[dict[str, dict[int, str]]] = {
    "Conv": {1: KERNEL, 2: "biases"},
    "ConvTranspose": {1: KERNEL, 2: "biases"},
    "DeformConv": {1: KERNEL, 3: "biases"},
    "Gemm": {0: KERNEL, 1: KERNEL, 2: "biases"},
    "MatMul": {0: KERNEL, 1: KERNEL},
    "LSTM": {1: KERNEL, 2: KERNEL, 3: "biases", 5: "states", 6: "states", 7: "biases"},
    "GRU": {1: KERNEL, 2: KERNEL, 3: "biases", 5: "states"},
    "RNN": {1: KERNEL, 2: KERNEL, 3: "biases", 5: "states"},
    "Gather": {0: "embeddings"},
    "BatchNormalization": {1: "norms", 2: "norms", 3: "norms", 4: "norms"},
    "InstanceNormalization": {1: "norms", 2: "norms"},
    "LayerNormalization": {1: "norms", 2: "norms"},
    "RMSNormalization": {1: "norms"},
    "GroupNormalization": {1: "norms", 2: "norms"},
    "Add": {0: "biases", 1: "biases"},
    "Mul": {0: "norms", 1: "norms"},
}
"""Operator → input → what a constant is there."""

_OWN: Final = ("", "ai.onnx")
"""Names of the ONNX standard's domain."""
_CARRIERS: Final = frozenset(
    {"Cast", "Concat", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose",
     "Unsqueeze"}
)  # fmt: skip
"""Operators that only move elements: a weight behind one is what its result is to the next node."""

_PACKED: Final = "codebooks of clustered weights: put `cluster.expand` before, or prune before clustering"


@dataclass(frozen=True)
class Candidate:
    """A float weight with more than one element.

    Attributes:
        weight: the weight.
        layers: the source layers that read it, then its own name: what globs are matched against.
        skipped: why it is not pruned, or None if it is.
    """

    weight: Weight
    layers: tuple[str, ...]
    skipped: str | None


def candidates(module: Module, only: Sequence[str], skip: Sequence[str], include: Sequence[str]) -> list[Candidate]:
    """Return every weight that could be thought of as prunable, each once, in the order of the module."""
    found = []
    tables = {book.table for book in codebooks(module)}
    for weight in module.weights():
        if weight.tensor.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE) or weight.size < 2:
            continue
        readers = _readers(weight.value)
        roles = {role for _, role in readers}
        if not roles - {None}:
            continue
        nodes = dict.fromkeys(node for node, _ in readers)
        layers = tuple(dict.fromkeys(name for node in nodes for name in _names(node)))
        names = (*layers, weight.name)
        reason = _PACKED if weight.value in tables else _reason(roles, names, only, skip, include)
        found.append(Candidate(weight, names, reason))
    return found


def _names(node: ir.Node) -> tuple[str, ...]:
    return provenance.origins(node) or (node.name or "",)


def _readers(value: ir.Value) -> list[tuple[ir.Node, str | None]]:
    """Return the nodes that a constant reaches, through operators that only move it, and what it is to each."""
    found: list[tuple[ir.Node, str | None]] = []
    seen, stack = {value}, [value]
    while stack:
        at = stack.pop(0)
        if at.is_graph_output():
            producer = at.producer()
            if producer is not None:
                found.append((producer, None))
        for usage in at.uses():
            node = usage.node
            moved = node.op_type in _CARRIERS and node.domain in _OWN
            if moved and (usage.idx == 0 or node.op_type == "Concat"):
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                stack.extend(fresh)
            else:
                found.append((node, _role(node, usage.idx)))
    return found


def _role(node: ir.Node, index: int) -> str | None:
    """Return what a constant is to a node that reads it; of other domains only the name is known."""
    if node.domain not in _OWN:
        return f"read by `{node.domain}.{node.op_type}`, which is no standard operator"
    return _ROLES.get(node.op_type, {}).get(index)


def _reason(
    roles: set[str | None], names: Sequence[str], only: Sequence[str], skip: Sequence[str], include: Sequence[str]
) -> str | None:
    wanted = {KERNEL, *include}
    others = sorted(role or "read by other operators" for role in roles if role not in wanted)
    if not roles & wanted:
        return others[0]
    if others:
        return f"shared: also {others[0]}"
    if only and not matches(only, names):
        return "not named by `only`"
    if matches(skip, names):
        return "named by `skip`"
    return None


def matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    """Say whether one of the patterns fits one of the names, case-sensitively."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)
