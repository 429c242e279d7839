"""A model as a small proto: its large tensors replaced by entries that say where their bytes belong.

Shape inference reads skeletons (a model of many GB is inferred in the memory of its graph), saving fills them in.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeAlias

import onnx
import onnx_ir as ir
from mopt.ir.module import Module
from mopt.ir.walk import model_graphs

_Replacement: TypeAlias = Callable[[ir.TensorProtocol], ir.TensorProtocol]


def new_token() -> str:
    """Return a marker that no file can contain by accident; it never reaches a file itself."""
    return f"mopt-{secrets.token_hex(8)}"


def skeleton(module: Module, threshold: int, token: str) -> tuple[onnx.ModelProto, list[ir.TensorProtocol]]:
    """Serialise a module without its tensors of at least `threshold` bytes.

    Returns:
        The proto, in which tensor i has the external location `token:i`, and the tensors.

    Raises:
        IRError: the graph is not in a state that can be copied.
    """
    model = module.clone().model
    taken: list[ir.TensorProtocol] = []

    def stand_in(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if tensor.dtype in (ir.DataType.STRING, ir.DataType.UNDEFINED) or tensor.nbytes < threshold:
            return tensor
        taken.append(tensor)
        return ir.ExternalTensor(
            f"{token}:{len(taken) - 1}",
            None,
            None,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props) or None,
        )

    replace_tensors(model, stand_in)
    return ir.serde.serialize_model(model), taken


def replace_tensors(model: ir.Model, replacement: _Replacement) -> None:
    """Pass every tensor of a model (initializers and attributes, in graph order) through a function."""
    for graph in model_graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = replacement(value.const_value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.is_ref():
                    continue
                if attribute.type == ir.AttributeType.TENSOR:
                    old = attribute.as_tensor()
                    new = replacement(old)
                    if new is not old:
                        node.attributes[name] = ir.AttrTensor(name, new, doc_string=attribute.doc_string)
                elif attribute.type == ir.AttributeType.TENSORS:
                    many = [replacement(tensor) for tensor in attribute.as_tensors()]
                    node.attributes[name] = ir.AttrTensors(name, many, doc_string=attribute.doc_string)
