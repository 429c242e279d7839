"""Invariants of types and shapes: the interface is typed, and what is stored agrees with what can be inferred."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from mopt.ir import shapes
from mopt.ir.dtypes import dims, type_word
from mopt.ir.invariant import Violation
from mopt.ir.module import Module
from mopt.ir.walk import graph_values, nested_graphs


def check_declared(module: Module) -> Iterator[Violation]:
    """Every input and output of the main graph has a type."""
    for kind, values in (("input", module.graph.inputs), ("output", module.graph.outputs)):
        for value in values:
            if value.type is None:
                yield Violation("declared", f"{kind} `{value.name}` has no type")


def check_inferred(module: Module) -> Iterator[Violation]:
    """No stored type or shape contradicts what inference derives from the inputs."""
    try:
        found = shapes.inferred_types(module)
    except Exception as error:  # noqa: BLE001  the reason is onnx's, and is reported
        yield Violation("inferred", f"types can't be inferred: {str(error).strip() or type(error).__name__}")
        return
    for graph in nested_graphs(module.graph):
        for value in graph_values(graph):
            proto = found.get(value.name or "")
            if proto is None:
                continue
            producer = value.producer()
            node = (producer.name or "") if producer is not None else ""
            kind = ir.serde.deserialize_type_proto_for_type(proto)
            if kind is not None and value.type is not None and _differ(kind, value.type):
                yield Violation(
                    "inferred", f"`{value.name}` is stored as {type_word(value.type)}, but is {type_word(kind)}", node
                )
            stored, actual = dims(value.shape), dims(ir.serde.deserialize_type_proto_for_shape(proto))
            if stored is not None and actual is not None and _clash(stored, actual):
                yield Violation("inferred", f"`{value.name}` is stored as {stored}, but is {actual}", node)


def _differ(inferred: ir.TypeProtocol, stored: ir.TypeProtocol) -> bool:
    return type_word(inferred) != type_word(stored)


def _clash(stored: tuple[int | str | None, ...], actual: tuple[int | str | None, ...]) -> bool:
    if len(stored) != len(actual):
        return True
    return any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(stored, actual, strict=True))
