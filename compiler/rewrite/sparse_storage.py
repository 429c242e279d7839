"""Weights with many zeros stored as what is not zero and where; standard operators put them together again.

ONNX's own sparse initializers spend 8 bytes on each index and pay from two thirds of zeros on only (float32). Here
positions take a bit an element, or a byte an element that is not zero (the distance from the one before; where it is
more than 255 a zero is stored on the way; Han et al. 2016, arXiv:1510.00149), whichever is smaller, tensor by tensor:

    bits [n]:  Gather(table [256, 8], bytes);  Gather([0, values …], CumSum(bits) · bits)     n / 8 bytes, and values
    gaps:      ScatterND(zeros [n], CumSum(gaps), values)                                     1 byte a value, and values

All of it is constant, and onnxruntime folds it when it loads the model (it does not fold a NonZero): what runs is the
dense model, bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs, nested_nodes
from mopt.ir.weights import Weight
from numpy.typing import NDArray

_LEAST_ELEMENTS: Final = 1024
_OVERHEAD: Final = 1024
"""Bytes of the nodes, names and shapes that put one weight together."""
_TABLE: Final = 2048
"""Bytes of the table of bits, which all weights share."""
OPSET: Final = 11
"""The first opset with CumSum, and with a Scatter of the present name."""


@dataclass(frozen=True)
class Stored:
    """What became of one weight: its name, how it is stored, and its bytes before and after."""

    name: str
    form: Literal["bits", "gaps"]
    before: int
    after: int


def store_sparse(module: Module) -> list[Stored]:
    """Store the weights of the main graph that get smaller by it, in place; return them.

    Nothing is done below opset 11.
    """
    if module.opset < OPSET:
        return []
    writer = _Writer(module)
    found = [stored for weight in list(module.weights()) if (stored := writer.store(weight)) is not None]
    if found:
        module.touch()
    return found


class _Writer:
    def __init__(self, module: Module) -> None:
        self._graph = module.graph
        graphs = nested_graphs(module.graph)
        self._values = {value.name for graph in graphs for value in graph_values(graph) if value.name}
        self._nodes = {node.name for node in nested_nodes(module.graph) if node.name}
        self._bits: ir.Value | None = None
        self._opset = module.opset

    def store(self, weight: Weight) -> Stored | None:
        if not self._fits(weight):
            return None
        array = weight.numpy()
        flat = np.ascontiguousarray(array).reshape(-1)
        # By bit patterns: a negative zero is kept.
        places = np.flatnonzero(flat.view(f"u{flat.itemsize}"))
        spaced = _gaps(places)
        bits = -(-flat.size // 8) + len(places) * flat.itemsize + (_TABLE if self._bits is None else 0)
        gaps = len(spaced) * (1 + flat.itemsize)
        after = min(bits, gaps) + _OVERHEAD
        if after >= array.nbytes:
            return None
        nodes: list[ir.Node] = []
        if bits < gaps:
            spread = self._from_bits(weight.name, flat, places, nodes)
        else:
            spread = self._from_gaps(weight.name, flat, spaced, nodes)
        self._put(weight, spread, nodes)
        return Stored(weight.name, "bits" if bits < gaps else "gaps", array.nbytes, after)

    def _fits(self, weight: Weight) -> bool:
        value = weight.value
        return (
            weight.graph is self._graph
            and weight.size >= _LEAST_ELEMENTS
            and weight.tensor.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
            and bool(value.uses())
            and not value.is_graph_input()
            and not value.is_graph_output()
        )

    def _from_bits(self, name: str, flat: NDArray[Any], places: NDArray[np.int64], nodes: list[ir.Node]) -> ir.Value:
        mask = np.zeros(flat.size, np.uint8)
        mask[places] = 1
        if self._bits is None:
            table = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
            self._bits = self._constant("bits_of_bytes", table)
        packed, axis = self._constant(f"{name}_places", np.packbits(mask)), self._constant(f"{name}_axis", np.array(0))
        wide = self._node(nodes, "Cast", [packed], {"to": int(ir.DataType.INT64)}, name, "wide")
        bits = self._node(nodes, "Gather", [self._bits, wide], {"axis": 0}, name, "bits")
        line = self._node(nodes, "Reshape", [bits, self._constant(f"{name}_flat", np.array([-1]))], {}, name, "line")
        if flat.size % 8:
            ends = [self._constant(f"{name}_{end}", np.array([at])) for end, at in (("start", 0), ("end", flat.size))]
            line = self._node(nodes, "Slice", [line, *ends], {}, name, "whole")
        count = self._node(nodes, "Cast", [line], {"to": int(ir.DataType.INT32)}, name, "count")
        sums = self._node(nodes, "CumSum", [count, axis], {}, name, "sums")
        positions = self._node(nodes, "Mul", [sums, count], {}, name, "positions")
        kept = self._constant(f"{name}_kept", np.append(np.zeros(1, flat.dtype), flat[places]))
        return self._node(nodes, "Gather", [kept, positions], {"axis": 0}, name, "spread")

    def _from_gaps(self, name: str, flat: NDArray[Any], gaps: NDArray[np.uint8], nodes: list[ir.Node]) -> ir.Value:
        stored, axis = self._constant(f"{name}_gaps", gaps), self._constant(f"{name}_axis", np.array(0))
        wide = self._node(nodes, "Cast", [stored], {"to": int(ir.DataType.INT64)}, name, "wide")
        sums = self._node(nodes, "CumSum", [wide, axis], {}, name, "sums")
        column = self._constant(f"{name}_column", np.array([-1, 1]))
        positions = self._node(nodes, "Reshape", [sums, column], {}, name, "positions")
        size, fill = self._constant(f"{name}_size", np.array([flat.size])), ir.tensor(np.zeros(1, flat.dtype))
        zeros = self._node(nodes, "ConstantOfShape", [size], {"value": fill}, name, "zeros")
        kept = self._constant(f"{name}_kept", flat[np.cumsum(gaps, dtype=np.int64)])
        return self._node(nodes, "ScatterND", [zeros, positions, kept], {}, name, "spread")

    def _put(self, weight: Weight, spread: ir.Value, nodes: list[ir.Node]) -> None:
        """Replace a weight by what puts it together: the result takes its name, its readers do not change."""
        old, name, readers = weight.value, weight.value.name or "", [usage.node for usage in weight.value.uses()]
        shape = self._constant(f"{name}_shape", np.array(weight.shape, np.int64))
        dense = self._node(nodes, "Reshape", [spread, shape], {}, name, "dense")
        dense.type, dense.shape = ir.TensorType(weight.tensor.dtype), ir.Shape(weight.shape)
        self._graph.insert_before(self._graph[0], nodes)
        provenance.inherit(nodes, [weight.node] if weight.node is not None else readers, "sparse storage")
        old.replace_all_uses_with(dense)
        if weight.node is not None:
            self._graph.remove(weight.node, safe=True)
        else:
            self._graph.initializers.pop(name)
        old.name = None
        dense.name = name

    def _constant(self, label: str, array: NDArray[Any]) -> ir.Value:
        name = fresh(label, self._values)
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._graph.initializers[name] = value
        return value

    def _node(
        self, nodes: list[ir.Node], operator: str, inputs: Sequence[ir.Value], attributes: dict[str, Any], weight: str,
        role: str,
    ) -> ir.Value:  # fmt: skip
        node = ir.node(operator, inputs, attributes, name=fresh(f"{weight}/{role}", self._nodes))
        node.outputs[0].name = fresh(f"{weight}_{role}", self._values)
        nodes.append(node)
        return node.outputs[0]


def _gaps(places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the distance of each place from the one before (of the first from 0), stopping every 255 on the way."""
    distances = np.diff(places, prepend=0)
    stops = np.maximum(-(-distances // 255), 1)
    gaps = np.full(int(stops.sum()), 255, np.uint8)
    gaps[np.cumsum(stops) - 1] = distances - 255 * (stops - 1)
    return gaps
