"""What a proto must satisfy before it becomes a graph: the checks that turn an invalid file into a clear error."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from mopt.ir.errors import LoadError


def check_versions(proto: onnx.ModelProto) -> None:
    """Refuse what is no model, or is made for a newer ONNX than the installed one.

    Raises:
        LoadError: it says which version is wanted and which is known.
    """
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output or proto.graph.input):
        raise LoadError("not an ONNX model: there is no graph in it")
    if proto.ir_version > onnx.IR_VERSION:
        raise LoadError(
            f"the model has IR version {proto.ir_version}, the installed onnx {onnx.__version__} knows up to "
            f"{onnx.IR_VERSION}; upgrade onnx, or export for an older version"
        )
    if not proto.opset_import:
        # The specification's default for models without imports.
        proto.opset_import.add(domain="", version=1)
    known = {"": onnx.defs.onnx_opset_version(), "ai.onnx": onnx.defs.onnx_opset_version()}
    for entry in proto.opset_import:
        if not 0 < entry.version < 2**31:
            raise LoadError(f"invalid model: it imports version {entry.version} of domain `{entry.domain}`")
        if entry.version > known.get(entry.domain, entry.version):
            raise LoadError(
                f"the model uses opset {entry.version}, the installed onnx {onnx.__version__} knows up to "
                f"{known[entry.domain]}; upgrade onnx, or convert the model to an older opset"
            )


def check_names(proto: onnx.ModelProto) -> None:
    """Refuse graphs in which a name is defined twice, or used and never defined.

    Raises:
        LoadError: it names the value, the node and the graph.
    """
    _check_graph(proto.graph, frozenset(), "the graph")
    for function in proto.functions:
        names = set(function.input)
        where = f"function `{function.domain}::{function.name}`"
        _check_nodes(function.node, names, where)
        _check_outputs(function.output, names, where)


def _check_graph(graph: onnx.GraphProto, outer: frozenset[str], where: str) -> None:
    inputs = [value.name for value in graph.input]
    if len(set(inputs)) != len(inputs):
        raise LoadError(f"invalid model: {where} has two inputs of one name ({_doubled(inputs)})")
    tensors = [tensor.name for tensor in graph.initializer]
    if len(set(tensors)) != len(tensors):
        raise LoadError(f"invalid model: {where} has two initializers of one name ({_doubled(tensors)})")
    names = set(inputs) | set(tensors)
    _check_nodes(graph.node, names, where, outer)
    _check_outputs([value.name for value in graph.output], names, where)


def _check_nodes(
    nodes: Iterable[onnx.NodeProto], names: set[str], where: str, outer: frozenset[str] = frozenset()
) -> None:
    nodes = list(nodes)
    for node in nodes:
        for name in node.output:
            if name and name in names:
                raise LoadError(
                    f"invalid model: `{name}` is defined twice in {where}, the second time by {_label(node)}"
                )
            if name:
                names.add(name)
    visible = outer | names
    for node in nodes:
        for name in node.input:
            if name and name not in visible:
                raise LoadError(f"invalid model: {_label(node)} in {where} reads `{name}`, which nothing produces")
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for graph in [*inner, *attribute.graphs]:
                _check_graph(graph, visible, f"`{attribute.name}` of {_label(node)}")


def _check_outputs(outputs: Iterable[str], names: set[str], where: str) -> None:
    outputs = list(outputs)
    for name in outputs:
        if name not in names:
            raise LoadError(f"invalid model: {where} has the output `{name}`, which nothing in it produces")


def _doubled(names: list[str]) -> str:
    return next(f"`{name}`" for index, name in enumerate(names) if name in names[:index])


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} node `{node.name or ', '.join(node.output)}`"
