"""A module as inference wants it: what can be inferred is left out, so that nothing stale is believed."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from mopt.ir.module import Module
from mopt.ir.skeleton import new_token, skeleton

_THRESHOLD = 4096
"""Bytes from which on a tensor is not shown to inference: shapes, pads and axes are smaller."""


def bare_proto(module: Module) -> onnx.ModelProto:
    """Return the module for inference: no large weights, no stored types but the inputs' and unknown operators'."""
    proto, _ = skeleton(module, _THRESHOLD, new_token())
    trusted = forget_inferable(proto)
    for function in proto.functions:
        del function.value_info[:]
    for graph in proto_graphs(proto):
        for info in graph.output:
            if info.name not in trusted:
                info.type.Clear()
    _push_constants(proto.graph, {})
    return proto


def forget_inferable(proto: onnx.ModelProto) -> set[str]:
    """Remove stored types of inner values from a proto, in place, but for the outputs of unknown operators.

    Values of functions have other shapes in every call and are not inferred: what is stored of them stays.

    Returns:
        The names of those.
    """
    local = {(function.domain, function.name) for function in proto.functions}
    trusted: set[str] = set()
    for graph in proto_graphs(proto):
        for node in graph.node:
            if (node.domain, node.op_type) not in local and not _has_schema(node):
                trusted.update(node.output)
    for graph in proto_graphs(proto):
        kept = [info for info in graph.value_info if info.name in trusted]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    return trusted


def proto_graphs(proto: onnx.ModelProto) -> list[onnx.GraphProto]:
    """Return the main graph and all graphs inside it."""
    graphs = [proto.graph]
    for graph in graphs:
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    graphs.append(attribute.g)
                graphs.extend(attribute.graphs)
    return graphs


def _has_schema(node: onnx.NodeProto) -> bool:
    return bool(onnx.defs.has(node.op_type, domain="" if node.domain == "ai.onnx" else node.domain))


def _push_constants(graph: onnx.GraphProto, outer: Mapping[str, onnx.TensorProto]) -> None:
    """Give inner graphs copies of the small constants they read from outside, where inference does not look."""
    own = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            own[node.output[0]] = node.attribute[0].t
    copied: set[str] = set()
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in outer and name not in own:
                node.input[index] = f"{name}//{graph.name}"
                copied.add(name)
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _push_constants(inner, {**outer, **own})
    for name in sorted(copied):
        tensor = graph.initializer.add()
        tensor.CopyFrom(outer[name])
        tensor.name = f"{name}//{graph.name}"
