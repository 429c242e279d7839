"""Where a node comes from: the source-model nodes it stands for, and the steps and rules that touched it.

Kept in the node's metadata (`mopt.origins`, `mopt.history`, JSON lists), so that it survives copies and, on
request, saving. Emitted models carry none unless asked to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir
from mopt.ir.walk import model_nodes

if TYPE_CHECKING:
    import onnx
    from mopt.ir.module import Module

ORIGINS = "mopt.origins"
HISTORY = "mopt.history"


def origins(node: ir.Node) -> tuple[str, ...]:
    """Return the names of the source-model nodes or layers that a node stands for; empty if unknown."""
    return _read(node, ORIGINS)


def history(node: ir.Node) -> tuple[str, ...]:
    """Return the `step/rule` entries that touched a node, oldest first."""
    return _read(node, HISTORY)


def stamp_source(module: Module) -> None:
    """Make every node that has no origin yet its own origin: what a source does once, after lowering."""
    for node in model_nodes(module.model):
        if ORIGINS not in node.metadata_props:
            _write(node, ORIGINS, (node.name or "",))


def inherit(new_nodes: Sequence[ir.Node], replaced_nodes: Sequence[ir.Node], by: str) -> None:
    """Hand the origins and the history of replaced nodes on to what replaces them.

    Args:
        new_nodes: the nodes that came in, or that were changed in place.
        replaced_nodes: the nodes whose work they do now (a changed node replaces itself).
        by: the step and rule, `simplify.rules/fuse-conv-bn` say.
    """
    from_origins = _union(origins(node) for node in replaced_nodes)
    from_history = _union(history(node) for node in replaced_nodes)
    for node in new_nodes:
        merged = _union((origins(node), from_origins))
        if merged:
            _write(node, ORIGINS, merged)
        _write(node, HISTORY, _union((history(node), from_history, (by,))))


def strip(model: ir.Model) -> None:
    """Remove all provenance from a model, in place."""
    for node in model_nodes(model):
        node.metadata_props.pop(ORIGINS, None)
        node.metadata_props.pop(HISTORY, None)


def strip_proto(proto: onnx.ModelProto) -> None:
    """Remove all provenance from a proto, in place."""
    for function in proto.functions:
        _strip_nodes(function.node)
    _strip_nodes(proto.graph.node)


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        kept = [(entry.key, entry.value) for entry in node.metadata_props if entry.key not in (ORIGINS, HISTORY)]
        if len(kept) != len(node.metadata_props):
            del node.metadata_props[:]
            for key, value in kept:
                node.metadata_props.add(key=key, value=value)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip_nodes(attribute.g.node)
            for graph in attribute.graphs:
                _strip_nodes(graph.node)


def _read(node: ir.Node, key: str) -> tuple[str, ...]:
    text = node.metadata_props.get(key)
    if text is None:
        return ()
    try:
        entries = json.loads(text)
    except ValueError:
        return ()
    return tuple(str(entry) for entry in entries) if isinstance(entries, list) else ()


def _write(node: ir.Node, key: str, entries: tuple[str, ...]) -> None:
    node.metadata_props[key] = json.dumps(entries, ensure_ascii=False)


def _union(parts: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry for part in parts for entry in part))
