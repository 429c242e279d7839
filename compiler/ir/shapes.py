"""Types and shapes of all values, inferred afresh from the inputs by onnx's own inference with data propagation.

Shapes stored in a file are a claim, not a fact: exporters leave stale ones behind. So inference starts from the
inputs, the weights and the outputs of operators that it does not know, and what it finds wins over what was stored;
a stored dimension survives only where inference has nothing to say and nothing else about the value contradicts it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from mopt.ir.bare import bare_proto, proto_graphs
from mopt.ir.dtypes import dims
from mopt.ir.module import Module
from mopt.ir.walk import nested_graphs

_GENERATED = re.compile(r"unk__\d+")


@dataclass(frozen=True)
class Inference:
    """What an inference found.

    Attributes:
        changed: whether some type or shape of the module is now another one.
        contradictions: stored shapes that were wrong, as text, with what was inferred.
        failure: why inference could not run at all, or None. The module is unchanged then.
    """

    changed: bool
    contradictions: tuple[str, ...] = ()
    failure: str | None = None


def infer(module: Module) -> Inference:
    """Infer types and shapes of all values outside of functions, and store them in the module. Never raises."""
    try:
        found = inferred_types(module)
    except Exception as error:  # noqa: BLE001  whatever stops inference, a model without shapes is still a model
        return Inference(False, failure=str(error).strip().split("\n")[0] or type(error).__name__)
    changed = False
    contradictions: list[str] = []
    for graph in nested_graphs(module.graph):
        interface = set(graph.inputs) if graph is module.graph else set()
        outputs = set(module.graph.outputs)
        for value in graph.initializers.values():
            if value.const_value is not None:
                changed |= _set(
                    value, ir.TensorType(value.const_value.dtype), ir.Shape(value.const_value.shape.numpy())
                )
        for value in _inferable(graph):
            if value in interface or not value.name:
                continue
            proto = found.get(value.name)
            if proto is None:
                changed |= _forget_generated(value)
                continue
            kind = ir.serde.deserialize_type_proto_for_type(proto)
            shape = ir.serde.deserialize_type_proto_for_shape(proto)
            merged, wrong = _merge(value.shape, shape, keep_names=value in outputs)
            if wrong:
                contradictions.append(f"`{value.name}`: stored {value.shape}, inferred {shape}")
            changed |= _set(value, kind if kind is not None else value.type, merged)
    if changed:
        module.touch()
    return Inference(changed, tuple(contradictions))


def inferred_types(module: Module) -> dict[str, onnx.TypeProto]:
    """Return what onnx infers for the values of the main graph and the graphs inside it, by name.

    Raises:
        Exception: whatever onnx raises on a model it can't work on.
    """
    proto = bare_proto(module)
    inferred = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    found: dict[str, onnx.TypeProto] = {}
    for graph in proto_graphs(inferred):
        for info in [*graph.input, *graph.value_info, *graph.output]:
            if info.type.WhichOneof("value") is not None:
                found[info.name] = info.type
    return found


def _inferable(graph: ir.Graph) -> list[ir.Value]:
    values = list(graph.inputs)
    for node in graph:
        values.extend(node.outputs)
    return values


def _merge(stored: ir.Shape | None, inferred: ir.Shape | None, *, keep_names: bool) -> tuple[ir.Shape | None, bool]:
    """Return the shape to believe, and whether the stored one was wrong."""
    old = dims(stored)
    new = dims(inferred)
    if new is None:
        return (stored if old is None or not _is_generated(old) else _without_generated(old)), False
    if old is None:
        return ir.Shape(_plain(new) if keep_names else new), False
    wrong = len(old) != len(new) or any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(old, new, strict=True)
    )
    if wrong:
        return ir.Shape(_plain(new) if keep_names else new), True
    merged: list[int | str | None] = []
    for before, after in zip(old, new, strict=True):
        if isinstance(after, int):
            merged.append(after)
        elif keep_names:
            merged.append(before if before is not None else (None if _generated(after) else after))
        elif _generated(after) or after is None:
            merged.append(after if before is None or _generated(before) else before)
        else:
            merged.append(after)
    return ir.Shape(merged), False


def _generated(dim: int | str | None) -> bool:
    return isinstance(dim, str) and _GENERATED.fullmatch(dim) is not None


def _is_generated(shape: tuple[int | str | None, ...]) -> bool:
    return any(_generated(dim) for dim in shape)


def _plain(shape: tuple[int | str | None, ...]) -> list[int | str | None]:
    return [None if _generated(dim) else dim for dim in shape]


def _without_generated(shape: tuple[int | str | None, ...]) -> ir.Shape:
    return ir.Shape(_plain(shape))


def _forget_generated(value: ir.Value) -> bool:
    shape = dims(value.shape)
    if shape is None or not _is_generated(shape):
        return False
    value.shape = _without_generated(shape)
    return True


def _set(value: ir.Value, kind: ir.TypeProtocol | None, shape: ir.Shape | None) -> bool:
    changed = False
    if kind is not None and kind != value.type:
        value.type = kind
        changed = True
    if dims(shape) != dims(value.shape):
        value.shape = shape
        changed = True
    return changed
