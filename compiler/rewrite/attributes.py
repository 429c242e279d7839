"""Reading node attributes with the operators' defaults."""

from __future__ import annotations

from typing import cast

import onnx_ir as ir


def integer(node: ir.Node, name: str, default: int) -> int:
    """Return an integer attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else int(attribute.as_int())


def real(node: ir.Node, name: str, default: float) -> float:
    """Return a float attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else float(attribute.as_float())


def text(node: ir.Node, name: str, default: str) -> str:
    """Return a string attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None or attribute.is_ref() else str(attribute.as_string())


def integers(node: ir.Node, name: str) -> list[int] | None:
    """Return a list-of-integers attribute, or None where the node has none."""
    attribute = node.attributes.get(name)
    return None if attribute is None or attribute.is_ref() else [int(item) for item in attribute.as_ints()]


def tensor(node: ir.Node, name: str) -> ir.TensorProtocol | None:
    """Return a tensor attribute, or None where the node has none.

    `Attr.as_tensor` checks the tensor against a runtime protocol, which costs more than all the rest.
    """
    attribute = node.attributes.get(name)
    if attribute is None or attribute.type != ir.AttributeType.TENSOR or attribute.is_ref():
        return None
    return cast("ir.TensorProtocol", attribute.value)
