"""Attributes as text: what an operator really computes with, defaults of its schema filled in."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from mopt.diff.prints import Prints, dims

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
_TENSORS = (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS)


def operator_type(node: ir.Node) -> str:
    """Return the operator with its domain in front, where that is not ONNX's own."""
    overload = f":{node.overload}" if node.overload else ""
    return f"{node.domain}::{node.op_type}{overload}" if node.domain else f"{node.op_type}{overload}"


def effective_attributes(node: ir.Node, version: int, prints: Prints) -> dict[str, str]:
    """Return a node's attributes as text, sorted by name; bodies are left out (they are graphs of their own)."""
    texts = dict(_defaults(node.op_type, node.domain, version))
    for attribute in node.attributes.values():
        if attribute.is_ref():
            texts[attribute.name] = f"@{attribute.ref_attr_name}"
        elif attribute.type not in _GRAPHS:
            texts[attribute.name] = _text(attribute, prints)
    return dict(sorted(texts.items()))


def parameter_name(node: ir.Node, slot: int, version: int) -> str:
    """Return what the operator's schema calls an input (`W`, `bias`), or its position where there is no schema."""
    names = _parameters(node.op_type, node.domain, version)
    if slot < len(names):
        return names[slot]
    return f"{names[-1]}[{slot - len(names) + 1}]" if names else f"input {slot}"


def _text(attribute: ir.Attr, prints: Prints) -> str:
    value = attribute.value
    if attribute.type in _TENSORS:
        tensors = value if isinstance(value, tuple) else (value,)
        return ", ".join(_tensor_text(tensor, prints) for tensor in tensors)
    return _plain(value)


def _tensor_text(tensor: Any, prints: Prints) -> str:
    if tensor.dtype != ir.DataType.STRING and tensor.size <= 8:
        return f"{tensor.dtype}{list(dims(tensor))} {tensor.numpy().tolist()}"
    return f"{tensor.dtype}{list(dims(tensor))} #{prints.of(tensor)[2].hex()[:12]}"


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        # Files hold single precision: 0.1 read back is 0.10000000149.
        return str(np.float32(value))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_plain(item) for item in value)}]"
    return str(value)


@lru_cache(maxsize=4096)
def _schema(op_type: str, domain: str, version: int) -> Any:
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=4096)
def _defaults(op_type: str, domain: str, version: int) -> tuple[tuple[str, str], ...]:
    schema = _schema(op_type, domain, version)
    if schema is None:
        return ()
    found = []
    for name, attribute in schema.attributes.items():
        default = attribute.default_value
        if default is not None and default.type != onnx.AttributeProto.UNDEFINED:
            found.append((name, _plain(onnx.helper.get_attribute_value(default))))
    return tuple(found)


@lru_cache(maxsize=4096)
def _parameters(op_type: str, domain: str, version: int) -> tuple[str, ...]:
    schema = _schema(op_type, domain, version)
    return tuple(parameter.name for parameter in schema.inputs) if schema is not None else ()
