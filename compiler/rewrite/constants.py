"""Constant values: initializers, `Constant` nodes, and `ConstantOfShape` over a constant (a compressed constant)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from mopt.ir.weights import constant_tensor, is_constant
from mopt.rewrite.attributes import tensor

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def constant_array(value: ir.Value | None) -> Array | None:
    """Return the elements of an initializer or `Constant` node; None for anything else.

    An initializer that is a graph input, too, can be overridden by the caller and is no constant.
    """
    stored = stored_tensor(value)
    if stored is None or stored.dtype == ir.DataType.STRING:
        return None
    return stored.numpy()


def stored_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor behind an initializer or a `Constant` node without reading its elements."""
    if value is None:
        return None
    producer = value.producer()
    if producer is not None:
        if producer.op_type != "Constant":
            return None
        held = None if producer.domain else tensor(producer, "value")
        if held is not None:
            return held
        return constant_tensor(producer) if is_constant(producer) else None
    if value.is_initializer() and not value.is_graph_input():
        return value.const_value
    return None


def uniform_fill(value: ir.Value | None) -> tuple[tuple[int, ...], Array] | None:
    """Return shape and fill (one element) of a `ConstantOfShape` over a constant shape; None for anything else."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "ConstantOfShape" or producer.domain != "":
        return None
    sizes = constant_array(producer.inputs[0])
    if sizes is None:
        return None
    held = tensor(producer, "value")
    fill = np.zeros(1, np.float32) if held is None else held.numpy().reshape(1)
    return tuple(int(size) for size in sizes), fill


def any_constant(value: ir.Value | None) -> Array | None:
    """Return the elements of a constant, compressed ones included (as a broadcast view that takes no memory)."""
    array = constant_array(value)
    if array is not None:
        return array
    fill = uniform_fill(value)
    return None if fill is None else np.broadcast_to(fill[1], fill[0])
