"""Grids of fewer than 8 bits in a graph of bytes: limits behind each QuantizeLinear, and weights of half a byte."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.naming import fresh
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

BY = "quantize.aware"


def limit(module: Module, limits: Mapping[str, tuple[int, int]]) -> None:
    """Clip the bytes of QuantizeLinear nodes to the least and the greatest integer of their grids, in place.

    QuantizeLinear saturates at the ends of its type only. A Clip of bytes leaves the operator before it an integer
    kernel, which a Clip of reals in between would not.
    """
    editor = Editor(module, signed=True, by=BY)
    nodes = list(module.nodes())
    order = {node: place for place, node in enumerate(nodes)}
    for node in nodes:
        if node.name is None or node.name not in limits:
            continue
        q = node.outputs[0]
        dtype = q.dtype or ir.DataType.UINT8
        storage = dtype.numpy()
        low, high = limits[node.name]
        ends = [
            None if end == bound else editor.constant(np.array(end, storage), "limit")
            for end, bound in ((low, np.iinfo(storage).min), (high, np.iinfo(storage).max))
        ]
        usages = list(q.uses())
        inputs = [q, *ends] if ends[1] is not None else [q, ends[0]]
        first = min((usage.node for usage in usages), key=order.__getitem__)
        (cut,) = editor.insert(first, "Clip", inputs, label=f"{q.name}_limited", dtypes=(dtype,), shape=q.shape)
        for usage in usages:
            usage.node.replace_input_with(usage.idx, cut)
    module.touch()


def pack(module: Module, names: Iterable[str]) -> int:
    """Store int8 weights whose values fit as INT4, two in a byte, in place; return how many elements."""
    editor, graph, elements = _FourBits(module, signed=True, by=BY), module.graph, 0
    for name in sorted(set(names)):
        value = graph.initializers[name]
        array = constant_array(value)
        if array is None or array.min(initial=0) < -8 or array.max(initial=0) > 7:
            continue
        packed = editor.four(array, f"{name}_int4")
        for usage in list(value.uses()):
            zeros = constant_array(usage.node.inputs[2])
            usage.node.replace_input_with(usage.idx, packed)
            if zeros is not None:
                usage.node.replace_input_with(2, editor.four(zeros, f"{name}_zeros"))
        elements += array.size
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            graph.initializers.pop(name)
    module.touch()
    return elements


class _FourBits(Editor):
    def four(self, content: NDArray[Any], label: str) -> ir.Value:
        """Return an INT4 initializer."""
        import ml_dtypes

        name, dtype = fresh(label, self._names), ir.DataType.INT4
        tensor = ir.Tensor(content.astype(ml_dtypes.int4), dtype=dtype, name=name)
        value = ir.Value(name=name, shape=ir.Shape(content.shape), type=ir.TensorType(dtype), const_value=tensor)
        self.module.graph.initializers[name] = value
        return value
