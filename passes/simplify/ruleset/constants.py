"""Constants: `Constant` nodes become initializers, equal ones become one, what depends on them alone is computed.

A constant that is described more briefly than it is long (a `ConstantOfShape`, a look-up in a codebook, a widened
half-precision tensor) stays described: folding must not make the file larger than `max_growth` allows.
"""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
from mopt.ir.walk import subgraphs_of
from mopt.ir.weights import is_constant
from mopt.passes.simplify.evaluate import EvaluationError, evaluate
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View, any_constant
from mopt.rewrite.constants import stored_tensor
from mopt.rewrite.symbol import product

SMALL: Final = 16 << 10
"""Bytes up to which any constant may be written out."""
DEFAULT_GROWTH: Final = 1 << 20
"""The usual `max_growth`. A `ConstantOfShape`, a constant as it is, is written out only where it was raised."""
_GENERATORS: Final = frozenset(["Expand", "Tile", "Range", "EyeLike", "Trilu", "OneHot", "Where", "CumSum", "Concat"])
_NEVER: Final = frozenset(
    [
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "RandomNormal",
        "RandomUniform",
        "RandomNormalLike",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        "Identity",
    ]
)
"""Folding these would undo a quantisation, fix what is random, or (Identity) is another rule's work."""


class LiftConstant(Rule):
    """`Constant` node → initializer."""

    name = "lift-constant"
    anchors = ("Constant",)
    algebra = "Constant(t) = initializer t"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        if not is_constant(node):
            return Miss("its value is a function's parameter")
        tensor = stored_tensor(node.outputs[0])
        if tensor is None:
            return Miss("it holds no tensor")
        if node.outputs[0].is_graph_output():
            return Miss("it is an output of the graph, which must be computed by a node", 1)
        if tensor.dtype == ir.DataType.STRING:
            return Miss("strings stay where they are", 1)
        return {"node": node, "tensor": tensor}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, tensor = bindings["node"], bindings["tensor"]
        old = node.outputs[0]
        name = view.name(f"{old.name}_constant")
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        return Replacement([node], {old: value}, constants=[value])


class MergeConstants(Rule):
    """Equal initializers → one."""

    name = "merge-constants"
    algebra = "a = b for initializers with the same type, shape and bytes"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        twins = view.duplicate_constants()
        for value in node.inputs:
            if value is not None and value in twins:
                return {"old": value, "new": twins[value]}
        return Miss("no input equals an earlier constant")

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        return Replacement([], {bindings["old"]: bindings["new"]})


class FoldConstants(Rule):
    """A deterministic node over constants → its value."""

    name = "fold-constants"
    algebra = "f(c1, …, cn) = c"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inputs = [value for value in node.inputs if value is not None]
        if not inputs or node.domain not in ("", "ai.onnx") or node.op_type in _NEVER:
            return Miss(f"{node.op_type} is not folded")
        if any(value.const_value is None and value.producer() is None for value in inputs):
            return Miss("an input is not constant")
        arrays = [any_constant(value) for value in inputs]
        missing = [value.name for value, array in zip(inputs, arrays, strict=True) if array is None]
        if missing:
            return Miss(f"input `{missing[0]}` is not constant", len(inputs) - len(missing))
        if subgraphs_of(node):
            return Miss("it owns graphs", len(inputs))
        if any(output.is_graph_output() for output in node.outputs):
            return Miss("it is an output of the graph", len(inputs))
        excess = _growth(view, node)
        if excess is not None:
            return Miss(excess, len(inputs) + 1)
        try:
            results = evaluate(node, view.opset)
        except EvaluationError as error:
            return Miss(f"it can't be computed: {error}", len(inputs) + 2)
        return {"node": node, "results": results}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        values, constants = {}, []
        for output, array in zip(node.outputs, bindings["results"], strict=True):
            if array is not None:
                constants.append(view.initializer(f"{output.name}_folded", array))
                values[output] = constants[-1]
        return Replacement([node], values, constants=constants)


def _growth(view: View, node: ir.Node) -> str | None:
    size = 0
    for output in node.outputs:
        shape, dtype = view.shape(output), view.dtype(output)
        elements = None if shape is None else product(shape)
        if not isinstance(elements, int):
            # An operator whose shape is not followed: its result is as large as its inputs, or checked by none.
            continue
        size += int(elements * (dtype.itemsize if dtype is not None else 4))
    if size <= SMALL:
        return None
    if node.op_type == "ConstantOfShape":
        if DEFAULT_GROWTH < view.max_growth >= size:
            return None
        return f"written out it would take {size} bytes"
    sources = [value for value in node.inputs if value is not None]
    held = sum(value.const_value.nbytes for value in sources if value.const_value is not None)
    if size <= held:
        return None
    if size - held <= view.max_growth and (
        node.op_type in _GENERATORS or any(view.is_compressed(value) for value in sources)
    ):
        return None
    return f"its value would take {size} bytes instead of {held}"


class FoldShapes(Rule):
    """A value computed from static dimensions → those numbers."""

    name = "fold-shapes"
    anchors = (
        "Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Reshape", "Cast", "Add", "Sub", "Mul",
        "Div", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "Where", "Range", "ReduceProd",
        "Floor", "Ceil", "Transpose", "ConstantOfShape",
    )  # fmt: skip
    algebra = "f(dims of x) = numbers, where the dimensions it uses are static"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        output = node.outputs[0]
        content = view.content(output)
        if content is None:
            return Miss("it does not compute with dimensions")
        numbers = view.numbers(output)
        if numbers is None:
            dynamic = sorted({str(item) for item in content.flat if not isinstance(item, int)})
            return Miss(f"it depends on the dynamic size {dynamic[0]}", 1)
        dtype = view.dtype(output)
        if dtype is None:
            return Miss("its element type is unknown", 2)
        if output.is_graph_output():
            return Miss("it is an output of the graph", 2)
        return {"node": node, "array": np.array(numbers, dtype=dtype.numpy()).reshape(content.shape)}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        value = view.initializer(f"{node.outputs[0].name}_folded", bindings["array"])
        return Replacement([node], {node.outputs[0]: value}, constants=[value])


class FoldFill(Rule):
    """A compressed constant that is only rearranged → a compressed constant of the new shape."""

    name = "fold-fill"
    anchors = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Tile", "Slice", "Identity")
    after = ("ConstantOfShape",)
    algebra = "Reshape(ConstantOfShape(s; c), t) = ConstantOfShape(t; c)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        fill = view.producer(node.inputs[0], "ConstantOfShape")
        if fill is None or not view.is_compressed(node.inputs[0]):
            return Miss("its input is no ConstantOfShape of a constant shape")
        shape = view.shape(node.outputs[0])
        if shape is None or not all(isinstance(size, int) for size in shape):
            return Miss("its shape is not static", 1)
        if node.op_type == "Identity" and node.outputs[0].is_graph_output():
            return Miss("it is an output of the graph", 2)
        return {"node": node, "fill": fill, "shape": shape}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, fill = bindings["node"], bindings["fill"]
        sizes = view.initializer(f"{node.outputs[0].name}_sizes", np.array(bindings["shape"], np.int64))
        new = view.copy(fill, [sizes])
        return Replacement([node, fill], {node.outputs[0]: new.outputs[0]}, [new], [sizes])
