"""What is checked of a proto's texts and tensors before it becomes a graph, so that nothing breaks on them later."""

from __future__ import annotations

import math
from typing import Any

import onnx
import onnx_ir as ir
from mopt.ir.errors import LoadError

_NUMBERS = ("float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data")
"""The typed fields of a tensor that may hold its elements."""


_ATTRIBUTE_FIELDS = {
    "f": onnx.AttributeProto.FLOAT, "i": onnx.AttributeProto.INT, "s": onnx.AttributeProto.STRING,
    "t": onnx.AttributeProto.TENSOR, "g": onnx.AttributeProto.GRAPH, "floats": onnx.AttributeProto.FLOATS,
    "ints": onnx.AttributeProto.INTS, "strings": onnx.AttributeProto.STRINGS,
    "tensors": onnx.AttributeProto.TENSORS, "graphs": onnx.AttributeProto.GRAPHS,
}  # fmt: skip
"""The field that holds an attribute's value, and the type that goes with it."""


def check_contents(proto: onnx.ModelProto) -> None:
    """Refuse a model with texts that are no UTF-8, or tensors whose data are not what type and shape say.

    Raises:
        LoadError: it names the text or the tensor.
    """
    _check_message(proto, "the model")


def _check_message(message: Any, where: str) -> None:
    for field, content in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in [content] if not _repeated(content) else content:
                if isinstance(item, onnx.TensorProto):
                    _check_tensor(item)
                    _check_text("name", item.name, "a tensor")
                    _check_text("doc_string", item.doc_string, f"tensor `{item.name}`")
                else:
                    if isinstance(item, onnx.AttributeProto) and item.type == onnx.AttributeProto.UNDEFINED:
                        _type_attribute(item, where)
                    _check_message(item, _place(item, where))
    _check_texts(message, where)


def _check_texts(message: Any, where: str) -> None:
    for field, content in message.ListFields():
        if field.type == field.TYPE_STRING:
            for text in [content] if not _repeated(content) else content:
                _check_text(field.name, text, where)


def _check_text(field: str, text: Any, where: str) -> None:
    if isinstance(text, bytes):
        # protobuf hands out bytes where the text is no UTF-8.
        shown = text[:40].decode("utf-8", "backslashreplace")
        raise LoadError(
            f"invalid model: {field} of {where} is not UTF-8 (`{shown}`); the file is damaged, or was written with "
            "another encoding: rename it in the tool that wrote the model"
        )


def _type_attribute(attribute: onnx.AttributeProto, where: str) -> None:
    """Give an attribute its type, which files of the first ONNX versions leave out."""
    if attribute.ref_attr_name:
        return
    for name, kind in _ATTRIBUTE_FIELDS.items():
        if any(field.name == name for field, _ in attribute.ListFields()):
            attribute.type = kind
            return
    raise LoadError(f"invalid model: attribute `{attribute.name}` of {where} has neither a type nor a value")


def _repeated(content: object) -> bool:
    return not isinstance(content, str | bytes) and hasattr(content, "__len__")


def _place(item: Any, where: str) -> str:
    if isinstance(item, onnx.NodeProto):
        return f"a {item.op_type} node"
    if isinstance(item, onnx.FunctionProto):
        return "a function"
    if isinstance(item, onnx.ValueInfoProto):
        return "an input, output or value"
    return where


def _check_tensor(tensor: onnx.TensorProto) -> None:
    known = {int(dtype) for dtype in ir.DataType}
    if tensor.data_type not in known or tensor.data_type == onnx.TensorProto.UNDEFINED:
        raise LoadError(f"invalid model: tensor `{tensor.name}` has the unknown element type {tensor.data_type}")
    if any(dim < 0 for dim in tensor.dims):
        raise LoadError(f"invalid model: tensor `{tensor.name}` has the shape {list(tensor.dims)}")
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return
    dtype = ir.DataType(tensor.data_type)
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        needed, held, unit = -(-count * _bits(dtype) // 8), len(tensor.raw_data), "bytes"
    else:
        needed, unit = _stored(dtype, count), "numbers"
        held = sum(len(getattr(tensor, name)) for name in _NUMBERS)
    if needed != held:
        raise LoadError(
            f"invalid model: tensor `{tensor.name}` of shape {list(tensor.dims)} takes {needed} {unit}, the file has "
            f"{held}; the file is damaged, or its weights were stripped"
        )


def _bits(dtype: ir.DataType) -> int:
    return 0 if dtype == ir.DataType.STRING else dtype.bitwidth


def _stored(dtype: ir.DataType, count: int) -> int:
    """Return how many entries of a typed field hold `count` elements."""
    if dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * count
    if dtype == ir.DataType.STRING or dtype.bitwidth >= 6:
        return count
    return -(-count * dtype.bitwidth // 8)
