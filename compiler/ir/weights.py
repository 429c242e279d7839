"""Weights: every constant tensor of a module, wherever it is kept.

Exporters keep them as initializers, as `Constant` nodes (Paddle), inside the branches of an `If` (Silero), or in
functions. All are yielded alike; `is_parameter` tells what a network learned from what merely steers its shapes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from mopt.ir.dtypes import word
from mopt.ir.walk import nested_graphs

if TYPE_CHECKING:
    from mopt.ir.module import Module

CONSTANT_ATTRIBUTES = (
    "value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings",
)  # fmt: skip
"""The attributes of which a `Constant` node has exactly one."""

_CONTROL_INPUTS = {
    "BatchNormalization": (3, 4), "Clip": (1, 2), "Dropout": (1, 2), "Pad": (1, 2, 3), "Resize": (1, 2, 3),
    "Upsample": (1,), "Range": (0, 1, 2), "OneHot": (1, 2), "NonMaxSuppression": (2, 3, 4), "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2), "DFT": (1, 2), "STFT": (1, 3), "Bernoulli": (), "Tile": (1,), "TopK": (1,),
}  # fmt: skip
"""Input positions that steer an operator rather than hold what was learned."""

_ELEMENTWISE = {
    "Add", "And", "BitShift", "Div", "Equal", "Expand", "Greater", "GreaterOrEqual", "Identity", "Less",
    "LessOrEqual", "Max", "Min", "Mod", "Mul", "Or", "Pow", "Reshape", "Squeeze", "Sub", "Sum", "Unsqueeze",
    "Where", "Cast", "Concat",
}  # fmt: skip
"""Operators where a single element is a constant of a formula (the 3 and the 6 of a hard swish)."""

_QUANTIZED_INPUTS = {
    "DequantizeLinear": (0,), "MatMulInteger": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3, 8),
    "QLinearMatMul": (0, 3), "MatMulNBits": (1,), "GatherBlockQuantized": (0,), "DynamicQuantizeMatMul": (1,),
    "MatMulIntegerToFloat": (0, 1), "QGemm": (0, 3, 6), "QAttention": (0, 1),
    "DynamicQuantizeLSTM": (1, 2), "QEmbedLayerNormalization": (2, 3, 4),
}  # fmt: skip
"""Input positions at which an integer tensor is a quantised weight."""

_QUANTIZATION_SCALES = {
    "QLinearConv": (1, 2, 4, 5, 6, 7), "QLinearMatMul": (1, 2, 4, 5, 6, 7), "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3), "MatMulNBits": (2, 3), "GatherBlockQuantized": (2, 3), "QGemm": (1, 2, 4, 5, 7, 8),
    "DynamicQuantizeMatMul": (2, 3), "MatMulIntegerToFloat": (2, 3, 4, 5), "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7), "QLinearSigmoid": (1, 2, 3, 4), "QLinearLeakyRelu": (1, 2, 3, 4),
    "QLinearGlobalAveragePool": (1, 2, 3, 4), "QLinearAveragePool": (1, 2, 3, 4), "QLinearSoftmax": (1, 2, 3, 4),
    "QAttention": (3, 4, 6, 7), "DynamicQuantizeLSTM": (8, 9, 10, 11),
}  # fmt: skip
"""Input positions of scales and zero points: they describe a quantisation and are no parameters themselves."""


@dataclass(frozen=True, eq=False)
class Weight:
    """One constant tensor of a module.

    Attributes:
        name: unique in the module: the value's name, for a function's weights prefixed with the function's.
        value: the value that nodes read.
        graph: the graph that holds it.
        node: the `Constant` node that produces it, or None for an initializer.
    """

    name: str
    value: ir.Value
    graph: ir.Graph
    node: ir.Node | None
    module: Module

    @property
    def tensor(self) -> ir.TensorProtocol:
        """The tensor as onnx_ir holds it; large ones are mapped from their file, not read."""
        if self.node is None:
            assert self.value.const_value is not None
            return self.value.const_value
        return constant_tensor(self.node)

    @property
    def dtype(self) -> str:
        """The element type in the language's words, `f32` say."""
        return word(self.tensor.dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """The dimensions."""
        return tuple(self.tensor.shape.numpy())

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of storage; elements of fewer than 8 bits are packed."""
        tensor = self.tensor
        if tensor.dtype == ir.DataType.STRING:
            return sum(len(text) for text in tensor.string_data())  # type: ignore[attr-defined, misc]
        return -(-self.size * tensor.dtype.bitwidth // 8)

    def numpy(self) -> np.ndarray[Any, Any]:
        """Return the elements. The array may be a read-only view of a file: copy before changing it."""
        return self.tensor.numpy()

    @property
    def users(self) -> tuple[tuple[ir.Node, int], ...]:
        """Every (node, input index) that reads it, also from inside inner graphs."""
        return tuple((usage.node, usage.idx) for usage in self.value.uses())

    @property
    def is_parameter(self) -> bool:
        """Whether this is something the network learned, rather than a shape, an index or a formula's constant.

        True for a float tensor that some node reads at a position which holds data, unless it has a single
        element and only steers elementwise arithmetic; and for an integer tensor at the position of a quantised
        weight. Scales and zero points, shapes, axes, pads, limits, look-up indices and the running statistics of a
        batch normalisation are not parameters, so that the count is the one that frameworks give.
        """
        dtype = self.tensor.dtype
        if dtype.is_floating_point():
            return any(self._holds_data(node, index) for node, index in self.users)
        if dtype.is_integer():
            return any(
                index in _QUANTIZED_INPUTS.get(node.op_type, ())
                # A table of bytes that rows are looked up in is a quantised embedding; one of wide integers is not.
                or (node.op_type == "Gather" and index == 0 and dtype.bitwidth <= 8 and len(self.shape) > 1)
                for node, index in self.users
            )
        return False

    def _holds_data(self, node: ir.Node, index: int) -> bool:
        if index in _CONTROL_INPUTS.get(node.op_type, ()) or index in _QUANTIZATION_SCALES.get(node.op_type, ()):
            return index in _QUANTIZED_INPUTS.get(node.op_type, ())
        return self.size > 1 or node.op_type not in _ELEMENTWISE

    def replace(self, array: np.ndarray[Any, Any]) -> None:
        """Put another tensor in its place; type and shape of the value follow. Other modules keep theirs."""
        tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=self.value.name)
        if self.node is None:
            self.value.const_value = tensor
        else:
            for name in CONSTANT_ATTRIBUTES:
                self.node.attributes.pop(name, None)
            self.node.attributes["value"] = ir.AttrTensor("value", tensor)
        self.value.type = ir.TensorType(tensor.dtype)
        self.value.shape = ir.Shape(array.shape)
        self.module.touch()


def constant_tensor(node: ir.Node) -> ir.TensorProtocol:
    """Return what a `Constant` node produces, whichever attribute holds it.

    Raises:
        ValueError: the node has none of the known attributes (a function's attribute parameter, say).
    """
    for name in CONSTANT_ATTRIBUTES:
        attribute = node.attributes.get(name)
        if attribute is None or attribute.is_ref():
            continue
        if name == "value":
            return attribute.as_tensor()
        label = node.outputs[0].name
        if name in ("value_float", "value_floats"):
            return ir.Tensor(np.array(attribute.value, dtype=np.float32), name=label)
        if name in ("value_int", "value_ints"):
            return ir.Tensor(np.array(attribute.value, dtype=np.int64), name=label)
        texts = [attribute.value] if name == "value_string" else list(attribute.value)
        encoded = [text.encode("utf-8") if isinstance(text, str) else text for text in texts]
        return ir.StringTensor(encoded, shape=ir.Shape([] if name == "value_string" else [len(texts)]), name=label)
    raise ValueError(f"Constant node `{node.name}` holds no tensor")


def is_constant(node: ir.Node) -> bool:
    """Say whether a node is a `Constant` with a value of its own."""
    if node.op_type != "Constant" or node.domain != "":
        return False
    return any(name in node.attributes and not node.attributes[name].is_ref() for name in CONSTANT_ATTRIBUTES)


def iterate(module: Module) -> Iterator[Weight]:
    """Yield the weights of a module: graph by graph, initializers first, then `Constant` nodes in graph order."""
    yield from _of_graph(module, module.model.graph, "")
    for function in module.model.functions.values():
        yield from _of_graph(module, function.graph, f"{function.domain}::{function.name}/")


def _of_graph(module: Module, top: ir.Graph, prefix: str) -> Iterator[Weight]:
    for graph in nested_graphs(top):
        for value in list(graph.initializers.values()):
            if value.const_value is not None:
                yield Weight(f"{prefix}{value.name}", value, graph, None, module)
        for node in list(graph):
            if is_constant(node):
                yield Weight(f"{prefix}{node.outputs[0].name}", node.outputs[0], graph, node, module)
