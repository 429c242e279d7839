"""Symbolic shapes and contents: what each value's dimensions are, and each small integer tensor's elements.

One forward walk over the graph from the inputs' declared shapes. A dimension that nothing is known of gets a symbol
of its own, so that equal sizes are really equal. Shapes stored on inner values are not read: exporters leave
wrong ones behind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from mopt.rewrite.constants import constant_array
from mopt.rewrite.symbol import Size, symbol

Shape: TypeAlias = tuple[Size, ...]
Content: TypeAlias = "np.ndarray[Any, Any]"  # of Size objects
ShapeHandler: TypeAlias = "Callable[[Symbolic, ir.Node], Sequence[Shape | None]]"
ContentHandler: TypeAlias = "Callable[[Symbolic, ir.Node], Content | None]"

MAX_CONTENT: Final = 64
"""Elements up to which a tensor's content is followed: shapes, pads and axes are all shorter."""


_BOOLEAN: Final = frozenset(
    ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf"]
)
_INTEGER: Final = frozenset(["Shape", "Size", "ArgMax", "ArgMin", "NonZero"])
_OTHERWISE_TYPED: Final = frozenset(
    [
        "CastLike",
        "OneHot",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "ConvInteger",
        "MatMulInteger",
        "EyeLike",
        "If",
        "Loop",
        "Scan",
        "RandomNormal",
        "RandomUniform",
        "RandomNormalLike",
        "RandomUniformLike",
        "Multinomial",
        "SequenceAt",
        "Optional",
        "BlackmanWindow",
        "HannWindow",
        "HammingWindow",
        "MelWeightMatrix",
        "Bernoulli",
        "QLinearConv",
        "QLinearMatMul",
        "BitCast",
    ]
)


class Symbolic:
    """Sizes and contents of values. Ask for a value at any time; call `infer` for nodes in topological order."""

    def __init__(self) -> None:
        self._shapes: dict[ir.Value, Shape | None] = {}
        self._contents: dict[ir.Value, Content | None] = {}
        self._dtypes: dict[ir.Value, ir.DataType | None] = {}
        self._fresh = 0

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the element type of a value, derived where none is stored; None where unknown."""
        if value is None:
            return None
        if value.dtype is not None:
            return value.dtype
        if value not in self._dtypes:
            self._dtypes[value] = self._derived_dtype(value)
        return self._dtypes[value]

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Return the dimensions of a value, or None where even its rank is unknown."""
        if value is None:
            return None
        if value not in self._shapes:
            self._shapes[value] = self._declared(value)
        return self._shapes[value]

    def content(self, value: ir.Value | None) -> Content | None:
        """Return the elements of a small integer tensor, each a number or a symbolic size; None where unknown."""
        if value is None:
            return None
        if value not in self._contents:
            self._contents[value] = _constant_content(value)
        return self._contents[value]

    def numbers(self, value: ir.Value | None) -> list[int] | None:
        """Return the elements of an integer tensor, flattened, where every one is a plain number."""
        content = self.content(value)
        if content is None or not all(isinstance(item, int) for item in content.flat):
            return None
        return [int(item) for item in content.flat]

    def fresh(self) -> Size:
        """Return a size that equals no other."""
        self._fresh += 1
        return symbol(f"?{self._fresh}")

    def infer(self, node: ir.Node) -> None:
        """Derive the outputs of one node from its inputs."""
        if node.domain not in ("", "ai.onnx"):
            return
        shapes, contents = _handlers()
        handler = shapes.get(node.op_type)
        if handler is not None:
            for output, shape in zip(node.outputs, handler(self, node), strict=False):
                self._shapes[output] = shape
        elif node.op_type == "If":
            self._infer_if(node)
        reader = contents.get(node.op_type)
        if reader is not None and node.outputs:
            content = reader(self, node)
            if content is not None and content.size <= MAX_CONTENT:
                self._contents[node.outputs[0]] = content

    def infer_graph(self, graph: ir.Graph) -> None:
        """Derive everything in a graph and in the graphs inside it."""
        from mopt.ir.walk import subgraphs_of

        for node in graph:
            for inner in subgraphs_of(node):
                self.infer_graph(inner)
            self.infer(node)

    def _derived_dtype(self, value: ir.Value) -> ir.DataType | None:
        from mopt.rewrite.attributes import integer
        from mopt.rewrite.attributes import tensor as tensor_attribute
        from mopt.rewrite.constants import stored_tensor

        tensor = stored_tensor(value)
        if tensor is not None:
            return tensor.dtype
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        if node.op_type in ("Cast",):
            return ir.DataType(integer(node, "to", 0))
        if node.op_type in _BOOLEAN:
            return ir.DataType.BOOL
        if node.op_type in _INTEGER or (node.op_type in ("MaxPool", "TopK", "Dropout") and value.index() != 0):
            return ir.DataType.INT64 if node.op_type != "Dropout" else ir.DataType.BOOL
        if node.op_type == "Where":
            return self.dtype(node.inputs[1])
        if node.op_type == "ConstantOfShape":
            fill = tensor_attribute(node, "value")
            return ir.DataType.FLOAT if fill is None else fill.dtype
        if node.op_type in _OTHERWISE_TYPED or not node.inputs:
            return None
        return self.dtype(node.inputs[0])

    def _infer_if(self, node: ir.Node) -> None:
        branches = [node.attributes[name].as_graph() for name in ("then_branch", "else_branch")]
        for index, output in enumerate(node.outputs):
            shapes = [self.shape(branch.outputs[index]) for branch in branches]
            first, second = shapes
            if first is None or second is None or len(first) != len(second):
                self._shapes[output] = None
            else:
                pairs = zip(first, second, strict=True)
                self._shapes[output] = tuple(a if a == b else self.fresh() for a, b in pairs)

    def _declared(self, value: ir.Value) -> Shape | None:
        if value.producer() is not None or (value.shape is None and value.const_value is None):
            return None
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        assert value.shape is not None
        return tuple(self._declared_size(size) for size in value.shape)

    def _declared_size(self, size: int | ir.SymbolicDim) -> Size:
        if isinstance(size, int):
            return size if size > 0 else self.fresh()
        # Exporters write "?" and "-1" for dimensions that have nothing in common: only a real name is one symbol.
        name = size.value
        return symbol(name) if name and name.replace(".", "_").isidentifier() else self.fresh()


@functools.cache
def _handlers() -> tuple[dict[str, ShapeHandler], dict[str, ContentHandler]]:
    # The handlers' modules import this one.
    from mopt.rewrite.symbolic_content import CONTENTS
    from mopt.rewrite.symbolic_layout import LAYOUT
    from mopt.rewrite.symbolic_spatial import SPATIAL

    return {**LAYOUT, **SPATIAL}, CONTENTS


def _constant_content(value: ir.Value) -> Content | None:
    tensor = value.const_value
    if tensor is not None and (tensor.size > MAX_CONTENT or len(tensor.shape) > 2):
        return None
    array = constant_array(value)
    if array is None or array.size > MAX_CONTENT:
        return None
    return as_content(array)


def as_content(array: np.ndarray[Any, Any]) -> Content | None:
    """Turn an array of whole numbers (integers, booleans, floats without a fraction) into a content."""
    if array.dtype.kind in "iub":
        items = array.astype(np.int64)
    elif array.dtype.kind == "f" and bool(np.all(np.isfinite(array))) and bool(np.all(array == np.rint(array))):
        if bool(np.any(np.abs(array) > 2**53)):
            return None
        items = array.astype(np.int64)
    else:
        return None
    content = np.empty(items.shape, dtype=object)
    content[...] = items
    for index, item in np.ndenumerate(items):
        content[index] = int(item)
    return content
