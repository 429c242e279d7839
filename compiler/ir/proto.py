"""Between `onnx.ModelProto` and `Module`, with the checks that give a clear error instead of a broken graph."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import onnx
import onnx_ir as ir
from mopt.ir.errors import IRError, LoadError
from mopt.ir.module import Module
from mopt.ir.naming import name_everything
from mopt.ir.provenance import strip_proto
from mopt.ir.walk import model_graphs
from onnx import numpy_helper

_OWN_DOMAINS = ("", "ai.onnx")


def from_proto(proto: onnx.ModelProto) -> Module:
    """Turn a model proto into a module. The module takes over the proto's tensors: don't change it afterwards.

    Nodes and values get unique names, nodes are sorted topologically, an initializer that is listed as an input,
    too (a default that a caller could override), becomes a plain initializer, and sparse initializers become
    dense: the notes of the module say so.

    Raises:
        LoadError: the model is invalid (names used twice, values that nothing produces, a cycle), made for a newer
            version of ONNX, or uses what can't be represented (map types).
    """
    _check_versions(proto)
    notes = _densify(proto)
    _check_names(proto)
    module = Module(_deserialize(proto), tuple(notes))
    _fix_defaults(module)
    _sort(module.model)
    name_everything(module.model)
    for domain in [domain for domain in module.model.opset_imports if domain == "ai.onnx"]:
        module.model.opset_imports.setdefault("", module.model.opset_imports.pop(domain))
    return module


def to_proto(module: Module, *, provenance: bool = False) -> onnx.ModelProto:
    """Return a module as a proto that holds copies of all weights.

    Args:
        module: what to serialise.
        provenance: keep where nodes come from in their metadata.

    Raises:
        IRError: it can't be serialised.
    """
    try:
        proto = ir.serde.serialize_model(module.model)
    except ir.serde.SerdeError as error:
        raise IRError(f"the graph can't be written as ONNX: {root_cause(error)}") from error
    if not provenance:
        strip_proto(proto)
    return proto


def _check_versions(proto: onnx.ModelProto) -> None:
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
        if entry.version > known.get(entry.domain, entry.version):
            raise LoadError(
                f"the model uses opset {entry.version}, the installed onnx {onnx.__version__} knows up to "
                f"{known[entry.domain]}; upgrade onnx, or convert the model to an older opset"
            )


def _densify(proto: onnx.ModelProto) -> list[str]:
    notes: list[str] = []
    for graph in _proto_graphs(proto):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
            notes.append(f"sparse initializer `{sparse.values.name}` was made dense")
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "sparse_value":
                    tensor = _dense(attribute.sparse_tensor)
                    attribute.Clear()
                    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                    attribute.t.CopyFrom(tensor)
                    notes.append(f"sparse constant `{node.output[0]}` was made dense")
    if proto.training_info:
        notes.append("training information was dropped")
    return notes


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    import numpy as np

    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), dtype=values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _check_names(proto: onnx.ModelProto) -> None:
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


def _deserialize(proto: onnx.ModelProto) -> ir.Model:
    # Names were checked above; what onnx_ir would log repeats it.
    logger = logging.getLogger("onnx_ir.serde")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return ir.serde.deserialize_model(proto)
    except (ir.serde.SerdeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
        raise LoadError(f"the model can't be represented: {root_cause(error)}") from error
    except RecursionError as error:
        raise LoadError("invalid model: graphs are nested too deeply") from error
    finally:
        logger.setLevel(level)


def _fix_defaults(module: Module) -> None:
    fixed: list[str] = []
    for graph in model_graphs(module.model):
        for value in [value for value in graph.inputs if value.is_initializer()]:
            graph.inputs.remove(value)
            fixed.append(value.name or "")
    if not fixed:
        return
    if module.model.ir_version < 4:
        # Before IR version 4 every initializer had to be an input, and none could be overridden.
        module.model.ir_version = 4
    else:
        count = f"{len(fixed)} inputs have" if len(fixed) > 1 else f"input `{fixed[0]}` has"
        module.notes += (f"{count} a default value and became constant",)


def _sort(model: ir.Model) -> None:
    from mopt.ir.structure import is_sorted

    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        if is_sorted(graph):
            continue
        try:
            graph.sort()
        except ValueError as error:
            raise LoadError("invalid model: the graph has a cycle") from error


def _proto_graphs(proto: onnx.ModelProto) -> Iterable[onnx.GraphProto]:
    pending = [proto.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)


def _doubled(names: list[str]) -> str:
    return next(f"`{name}`" for index, name in enumerate(names) if name in names[:index])


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} node `{node.name or ', '.join(node.output)}`"


def root_cause(error: BaseException) -> str:
    """Return the first line of the error that started a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
