"""Each operator with its weight in blocks. Each function returns None, or why it left a node alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs, nested_nodes
from mopt.passes.contract import PassError
from mopt.passes.quantize import blocks, weights_gptq
from mopt.passes.quantize.dynamic_operators import constant
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.passes.quantize.weights import Weights

BY: Final = "quantize.weights"
DOMAIN: Final = "com.microsoft"
_UINT4_IR: Final = 10
_SUMMED: Final[dict[str, dict[int, int]]] = {
    "Conv": {1: 1}, "MatMul": {1: -2}, "Gemm": {1: 0}, "LSTM": {1: 2, 2: 2}, "GRU": {1: 2, 2: 2},
}  # fmt: skip
"""Operator → input that may be a weight → the axis of it that is summed over (of a Gemm's where not transposed)."""


class Quantizer:
    """Quantises the weights of one module; remembers them, so that one that several nodes read is stored once.

    Args:
        moments: for each input of a product, by name, what GPTQ needs to know of it; empty to round to the nearest.
    """

    def __init__(self, module: Module, options: Weights, moments: Mapping[str, NDArray[np.float64]]) -> None:
        self.options = options
        self._moments = moments
        self.gptq = 0
        self._module = module
        self._values = {value.name for graph in nested_graphs(module.graph) for value in graph_values(graph)
                        if value.name}  # fmt: skip
        self._nodes = {node.name for node in nested_nodes(module.graph) if node.name}
        self._stored: dict[tuple[ir.Value, str], tuple[ir.Value, ...]] = {}
        self._restored: dict[ir.Value, int] = {}
        self.elements = 0
        self.error = self.energy = 0.0

    def product(self, node: ir.Node) -> str | None:
        """`MatMul` or `Gemm` with a constant [K, N] → `MatMulNBits` (and an `Add` for a Gemm's bias)."""
        array = self.weight(node, 1)
        if isinstance(array, str):
            return array
        x, source = node.inputs[0], node.inputs[1]
        assert x is not None and source is not None
        bias: ir.Value | None = None
        key = "columns"
        if array.ndim != 2:
            return "its weight is no matrix"
        if node.op_type == "Gemm":
            alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
            bias = node.inputs[2] if len(node.inputs) > 2 else None
            if node.attributes.get_int("transA", 0):
                return "its left operand is transposed"
            if bias is not None and beta != 1.0:
                return "its bias is scaled"
            array = (array.T if node.attributes.get_int("transB", 0) else array) * np.float32(alpha)
            key = f"gemm {node.attributes.get_int('transB', 0)} {alpha}"
        elif x.shape is not None and len(x.shape) < 2:
            return "its left operand is a vector"
        inner, outer = array.shape
        if (source, key) not in self._stored:
            self._stored[source, key] = self._columns(source.name or "weight", array, self._moments.get(x.name or ""))
        attributes = {
            "K": inner, "N": outer, "bits": self.options.bits, "block_size": self.options.block,
            "accuracy_level": 4 if self.options.compute == "i8" else 1,
        }  # fmt: skip
        product = self._insert(node, "MatMulNBits", [x, *self._stored[source, key]], attributes, DOMAIN)
        if bias is not None:
            product = self._insert(node, "Add", [product, bias], {}, "")
        self._replace(node, product)
        return None

    def _columns(self, name: str, array: NDArray[Any], moment: NDArray[np.float64] | None) -> tuple[ir.Value, ...]:
        """Store a matrix [K, N] by columns, as `MatMulNBits` reads it."""
        bits, block = self.options.bits, self.options.block
        found = self._quantize(array.T, moment)
        outer, count = found.scale.shape
        packed = blocks.packed_rows(found.values, bits, block).reshape(outer, count, block * bits // 8)
        stored = [
            self._initializer(f"{name}_blocks", ir.Tensor(packed)),
            self._initializer(f"{name}_scales", ir.Tensor(found.scale)),
        ]
        if not self.options.symmetric:
            zeros = ir.Tensor(blocks.packed_rows(found.zero, bits, 8 // bits))
            stored.append(self._initializer(f"{name}_zeros", zeros))
        return tuple(stored)

    def embedding(self, node: ir.Node) -> str | None:
        """`Gather` of rows of a constant [V, D] → `GatherBlockQuantized`."""
        array = self.weight(node, 0)
        if isinstance(array, str):
            return array
        table, indices = node.inputs[0], node.inputs[1]
        assert table is not None and indices is not None
        if array.ndim != 2 or node.attributes.get_int("axis", 0) != 0:
            return "it does not read rows of a matrix"
        if (table, "rows") not in self._stored:
            found, name = self._quantize(array), table.name or "table"
            stored = [
                self._initializer(f"{name}_blocks", blocks.tensor(found.values, self.options.bits)),
                self._initializer(f"{name}_scales", ir.Tensor(found.scale)),
                self._initializer(f"{name}_zeros", blocks.tensor(found.zero, self.options.bits)),
            ]
            self._stored[table, "rows"] = tuple(stored)
        blocked, scales, zeros = self._stored[table, "rows"]
        attributes = {
            "gather_axis": 0, "quantize_axis": 1, "block_size": self.options.block, "bits": self.options.bits,
        }  # fmt: skip
        self._replace(
            node, self._insert(node, "GatherBlockQuantized", [blocked, indices, scales, zeros], attributes, DOMAIN)
        )
        return None

    def restore(self, node: ir.Node) -> str | None:
        """Put a block-wise `DequantizeLinear` before each weight of a node."""
        reasons = []
        for index, axis in _SUMMED[node.op_type].items():
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and value in self._restored:
                continue
            array = self.weight(node, index)
            if isinstance(array, str):
                reasons.append(array)
                continue
            assert value is not None
            along = (1 if node.attributes.get_int("transB", 0) else 0) if node.op_type == "Gemm" else axis % array.ndim
            if array.ndim < 2 or array.shape[along] < self.options.block:
                reasons.append(f"it sums over fewer than {self.options.block} weights")
                continue
            self._dequantized(node, value, array, along)
        return reasons[0] if len(reasons) == len(_SUMMED[node.op_type]) else None

    def _dequantized(self, node: ir.Node, value: ir.Value, array: NDArray[Any], axis: int) -> None:
        name, bits = value.name or "weight", self.options.bits
        found = self._quantize(np.moveaxis(array, axis, -1))
        signed = self.options.symmetric  # then zero is in the middle: signed integers need no zero points
        values = blocks.tensor(np.moveaxis(found.values, -1, axis), bits, signed=signed)
        inputs = [
            self._initializer(f"{name}_blocks", values),
            self._initializer(f"{name}_scales", ir.Tensor(np.ascontiguousarray(np.moveaxis(found.scale, -1, axis)))),
        ]
        if not signed:
            zeros = blocks.tensor(np.moveaxis(found.zero, -1, axis), bits)
            inputs.append(self._initializer(f"{name}_zeros", zeros))
        first = node
        if value.graph is not None and isinstance(value.graph, ir.Graph):
            producer = value.producer()
            first = producer if producer is not None else value.graph[0]
        restored = self._insert(
            first, "DequantizeLinear", inputs, {"axis": axis, "block_size": self.options.block}, "", origin=node
        )
        restored.shape = ir.Shape(array.shape)
        value.replace_all_uses_with(restored)
        self._drop(value)
        self._restored[restored] = axis

    def weight(self, node: ir.Node, index: int) -> NDArray[Any] | str:
        """Return the constant at one input of a node, or why it is not to be quantised."""
        value = node.inputs[index] if index < len(node.inputs) else None
        array = constant(value)
        if array is None:
            return "its weight is computed by the graph"
        if array.dtype != np.float32:
            return f"its weight is {array.dtype.name}; quantise before converting to another precision"
        if array.size < self.options.min_elements:
            return f"its weight has fewer than {self.options.min_elements} elements"
        if not np.isfinite(array).all():
            name = value.name if value is not None else ""
            raise PassError(f"weight `{name}` of node `{node.name}` holds NaN or infinite values", node=node.name)
        return array

    def _quantize(self, array: NDArray[Any], moment: NDArray[np.float64] | None = None) -> blocks.Blocks:
        options = self.options
        if moment is None:
            found = blocks.quantize(array, options.bits, options.block, symmetric=options.symmetric)
        else:
            found = weights_gptq.quantize(array, moment, options.bits, options.block, symmetric=options.symmetric)
            self.gptq += 1
        self.elements += array.size
        self.error += float(np.sum(np.square(blocks.dequantize(found, options.block) - array, dtype=np.float64)))
        self.energy += float(np.sum(np.square(array, dtype=np.float64)))
        return found

    def _initializer(self, label: str, tensor: ir.TensorProtocol) -> ir.Value:
        name = fresh(label, self._values)
        tensor.name = name
        if tensor.dtype in (ir.DataType.UINT4, ir.DataType.INT4):
            self._module.model.ir_version = max(self._module.model.ir_version or 0, _UINT4_IR)
        value = ir.Value(
            name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._module.graph.initializers[name] = value
        return value

    def _insert(
        self,
        before: ir.Node,
        operator: str,
        inputs: Sequence[ir.Value],
        attributes: Mapping[str, int],
        domain: str,
        origin: ir.Node | None = None,
    ) -> ir.Value:
        label = f"{(origin or before).name}/{operator}"
        numbers = [ir.AttrInt64(name, number) for name, number in attributes.items()]
        node = ir.Node(domain, operator, inputs, numbers, name=fresh(label, self._nodes))
        output = node.outputs[0]
        output.name, output.type = fresh(label, self._values), ir.TensorType(ir.DataType.FLOAT)
        assert before.graph is not None
        before.graph.insert_before(before, node)
        provenance.inherit([node], [origin or before], BY)
        if domain:
            self._module.model.opset_imports.setdefault(domain, 1)
        return output

    def _replace(self, node: ir.Node, result: ir.Value) -> None:
        old, read = node.outputs[0], list(node.inputs)
        name = old.name
        result.shape = old.shape
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        old.name = None
        result.name = name
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        for value in read:
            if value is not None:
                self._drop(value)

    def _drop(self, value: ir.Value) -> None:
        """Remove a constant, or the chain of nodes that only rearranges one, once nothing reads it."""
        if value.uses() or value.is_graph_output() or value.is_graph_input():
            return
        producer = value.producer()
        if producer is None:
            if value.is_initializer() and value.graph is not None:
                value.graph.initializers.pop(value.name or "", None)
        elif producer.op_type in ("Constant", "Identity", "Transpose") and producer.graph is not None:
            read = [item for item in producer.inputs if item is not None]
            producer.graph.remove(producer, safe=True)
            for item in read:
                self._drop(item)
