"""The text form of a module: stable, one node a line, for golden tests and for reading.

    module opset 17
    graph main(x: f32[N, 4]) -> (y: f32[N, 2]) {
      w: f32[4, 2] = weight #1f8a2c90
      t: f32[N, 2] = MatMul(x, w)
      y: f32[N, 2] = Relu(t)
    }

Weights of up to eight elements are written out, larger ones as a hash of type, shape and content. The names of
nodes are left out unless asked for, so that a rule's golden text says what it computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from mopt.ir import provenance as _provenance
from mopt.ir.dtypes import dims, type_word, word
from mopt.ir.mapped import Sink, write_tensor
from mopt.ir.module import Module
from mopt.ir.weights import constant_tensor, is_constant

_INLINE = 8

_LARGEST_F32 = float(np.finfo(np.float32).max)


def print_module(module: Module, *, names: bool = False, provenance: bool = False) -> str:
    """Return the text form.

    Args:
        module: what to print.
        names: write each node's name behind it, as `@name`.
        provenance: write each node's origins and history behind it.
    """
    imports = [f"opset {module.opset}"]
    imports += [f"{domain} {version}" for domain, version in sorted(module.model.opset_imports.items()) if domain]
    lines = [f"module {', '.join(imports)}"]
    lines += _graph(module.graph, "", f"graph {module.graph.name or ''}".strip(), names, provenance)
    for function in module.model.functions.values():
        title = f"function {function.domain}::{function.name}"
        if function.attributes:
            title += f"<{', '.join(function.attributes)}>"
        lines += _graph(function.graph, "", title, names, provenance)
    return "\n".join(lines) + "\n"


def content_hash(tensor: ir.TensorProtocol) -> str:
    """Return eight hexadecimal digits that stand for a tensor's type, shape and content."""
    digest = hashlib.sha256(f"{word(tensor.dtype)}{list(tensor.shape.numpy())}".encode())
    if tensor.dtype == ir.DataType.STRING:
        for text in tensor.string_data():  # type: ignore[attr-defined]
            digest.update(len(text).to_bytes(8, "little") + text)
    else:
        write_tensor(tensor, Sink(digest.update))
    return digest.hexdigest()[:8]


def _graph(graph: ir.Graph, indent: str, title: str, names: bool, provenance: bool) -> Iterator[str]:
    inputs = ", ".join(_typed(value) for value in graph.inputs)
    outputs = ", ".join(_typed(value) for value in graph.outputs)
    yield f"{indent}{title}({inputs}) -> ({outputs}) {{"
    for value in graph.initializers.values():
        yield f"{indent}  {_typed(value)} = weight {_tensor(value.const_value)}"
    for node in graph:
        yield from _node(node, f"{indent}  ", names, provenance)
    yield f"{indent}}}"


def _node(node: ir.Node, indent: str, names: bool, provenance: bool) -> Iterator[str]:
    results = ", ".join(_typed(value) if value.name else "_" for value in node.outputs)
    suffix = f"  @{node.name}" if names else ""
    if provenance:
        suffix += f"  from {list(_provenance.origins(node))} by {list(_provenance.history(node))}"
    if is_constant(node):
        yield f"{indent}{results} = constant {_tensor(constant_tensor(node))}{suffix}"
        return
    operands = ", ".join("_" if value is None else value.name or "?" for value in node.inputs)
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    attributes = sorted(node.attributes.values(), key=lambda attribute: attribute.name)
    plain = [a for a in attributes if a.is_ref() or a.type not in _GRAPHS]
    braces = f" {{{', '.join(f'{a.name}={_attribute(a)}' for a in plain)}}}" if plain else ""
    yield f"{indent}{results} = {operator}({operands}){braces}{suffix}"
    for attribute in attributes:
        if attribute.is_ref() or attribute.type not in _GRAPHS:
            continue
        inner = [attribute.value] if attribute.type == ir.AttributeType.GRAPH else attribute.value
        for graph in inner:
            yield from _graph(graph, f"{indent}  ", attribute.name, names, provenance)


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _typed(value: ir.Value) -> str:
    shape = dims(value.shape)
    inner = "…" if shape is None else ", ".join("?" if dim is None else str(dim) for dim in shape)
    return f"{value.name}: {type_word(value.type)}[{inner}]"


def _tensor(tensor: ir.TensorProtocol | None) -> str:
    if tensor is None:
        return "(none)"
    if tensor.dtype == ir.DataType.STRING:
        texts = [text.decode("utf-8", "replace") for text in tensor.string_data()]  # type: ignore[attr-defined]
        return repr(texts) if len(texts) <= _INLINE else f"#{content_hash(tensor)}"
    if int(np.prod(tensor.shape.numpy(), dtype=np.int64)) <= _INLINE:
        return str(_plain(tensor.numpy().tolist()))
    return f"#{content_hash(tensor)}"


def _plain(value: object) -> object:
    """Return nested lists of Python numbers, floats as short as can be."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bool | int | complex):
        return value
    return _short(float(value))  # type: ignore[arg-type]


def _short(number: float) -> float:
    """Return the shortest number that is the same in float32, if it is a float32 at all."""
    if number != number or abs(number) > _LARGEST_F32:
        return number
    narrow = np.float32(number)
    return float(str(narrow)) if float(narrow) == number else number


def _attribute(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    value = attribute.value
    if attribute.type == ir.AttributeType.FLOAT:
        return f"{_short(value)!r}"
    if attribute.type == ir.AttributeType.FLOATS:
        return str([_short(item) for item in value])
    if attribute.type == ir.AttributeType.TENSOR:
        return f"{word(value.dtype)}{list(value.shape.numpy())} {_tensor(value)}"
    if attribute.type == ir.AttributeType.TENSORS:
        return f"[{', '.join(_tensor(tensor) for tensor in value)}]"
    if attribute.type == ir.AttributeType.TYPE_PROTO:
        return type_word(value.type)
    if isinstance(value, tuple):
        return str(list(value))
    return repr(value)
