"""Nodes that hand their input on: Identity, inference-time Dropout, one-part Concat, whole Slice, empty Pad, ..."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integer, integers
from mopt.rewrite.symbolic_layout import slice_bounds, sliced_size
from mopt.rewrite.symbolic_spatial import pads_of


class _Forward(Rule):
    """Replaces a node's first output by its first input."""

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        return Replacement([node], {node.outputs[0]: node.inputs[bindings.get("input", 0)]})


class RemoveIdentity(_Forward):
    """`Identity(x)` → x."""

    name = "remove-identity"
    anchors = ("Identity",)
    algebra = "Identity(x) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        output, source = node.outputs[0], node.inputs[0]
        if source is None:
            return Miss("it has no input")
        if output.is_graph_output():
            producer = source.producer()
            if producer is None or source.is_graph_output():
                return Miss("an output of the graph needs a node of its own that computes it", 1)
            if producer.graph is not node.graph:
                return Miss("it hands a value of an outer graph out", 1)
        return {"node": node}


class RemoveDropout(_Forward):
    """Dropout outside of training → x."""

    name = "remove-dropout"
    anchors = ("Dropout",)
    algebra = "Dropout(x; training=false) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            return Miss("its mask is used")
        training = node.inputs[2] if len(node.inputs) > 2 else None
        if training is not None:
            mode = view.constant(training)
            if mode is None or bool(mode):
                return Miss("it may run in training mode", 1)
        return {"node": node}


class RemoveCast(_Forward):
    """A cast to the type the value has → x."""

    name = "remove-cast"
    anchors = ("Cast",)
    algebra = "Cast(x; to=T) = x for x of type T"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        dtype = view.dtype(node.inputs[0])
        if dtype is None:
            return Miss("the input's type is unknown")
        if dtype != integer(node, "to", 0):
            return Miss(f"it casts {dtype.name} to {ir.DataType(integer(node, 'to', 0)).name}", 1)
        return {"node": node}


class MergeCasts(Rule):
    """Two casts in a row, the first of which loses nothing → one."""

    name = "merge-casts"
    anchors = ("Cast",)
    after = ("Cast",)
    algebra = "Cast(Cast(x; to=T); to=U) = Cast(x; to=U) where T holds every value of x's type"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = view.producer(node.inputs[0], "Cast")
        if inner is None:
            return Miss("its input is no Cast")
        first, second = view.dtype(inner.inputs[0]), view.dtype(inner.outputs[0])
        if first is None or second is None:
            return Miss("the types are unknown", 1)
        if second == ir.DataType.BOOL or not np.can_cast(first.numpy(), second.numpy(), "safe"):
            return Miss(f"the cast from {first.name} to {second.name} loses values", 2)
        return {"node": node, "inner": inner}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner = bindings["node"], bindings["inner"]
        new = view.copy(node, [inner.inputs[0]])
        return Replacement([node, inner], {node.outputs[0]: new.outputs[0]}, [new])


class RemoveSingle(_Forward):
    """Concat, Sum, Max, Min or Mean of one value → that value."""

    name = "remove-single-operand"
    anchors = ("Concat", "Sum", "Max", "Min", "Mean")
    algebra = "Concat(x) = x, Sum(x) = x, Max(x) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        if len(node.inputs) != 1:
            return Miss(f"it has {len(node.inputs)} operands")
        return {"node": node}


class RemoveSlice(_Forward):
    """A slice that keeps everything → x."""

    name = "remove-slice"
    anchors = ("Slice",)
    algebra = "x[0:n] = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        shape, bounds = view.shape(node.inputs[0]), slice_bounds(view.symbolic, node)
        if shape is None or bounds is None:
            return Miss("its bounds are not known")
        for axis, start, end, step in bounds:
            whole = step == 1 and start == 0 and (end == shape[axis] or (isinstance(end, int) and end >= 1 << 31))
            if not whole and sliced_size(shape[axis], start, end, step) != shape[axis]:
                return Miss(f"it takes {start}:{end} of axis {axis}, which has {shape[axis]}", 1)
            if step < 0:
                return Miss(f"it reverses axis {axis}", 1)
        return {"node": node}


class RemovePad(_Forward):
    """Padding by nothing → x."""

    name = "remove-pad"
    anchors = ("Pad",)
    algebra = "Pad(x; 0) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        pads = pads_of(view.symbolic, node)
        if pads is None:
            return Miss("its paddings are not known")
        if any(pads):
            return Miss(f"it pads by {pads}", 1)
        return {"node": node}


class RemoveBroadcast(_Forward):
    """Expand or Tile to the shape the value has → x."""

    name = "remove-broadcast"
    anchors = ("Expand", "Tile")
    algebra = "Expand(x, shape(x)) = x, Tile(x, 1) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        before, after = view.shape(node.inputs[0]), view.shape(node.outputs[0])
        if before is None or after is None:
            return Miss("a shape is unknown")
        if before != after:
            return Miss(f"it turns {list(before)} into {list(after)}", 1)
        return {"node": node}


class AbsorbExpand(Rule):
    """An Expand whose reader broadcasts anyway → gone."""

    name = "absorb-expand"
    anchors = ("Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "And", "Or", "Where", "Min", "Max")
    after = ("Expand",)
    algebra = "Expand(x, s) + y = x + y where y has shape s already"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        result = view.shape(node.outputs[0])
        for index, value in enumerate(node.inputs):
            inner = view.producer(value, "Expand")
            if inner is None:
                continue
            others = [view.shape(other) for position, other in enumerate(node.inputs) if position != index]
            if result is None or any(other is None for other in others):
                return Miss("a shape is unknown", 1)
            from mopt.rewrite.symbolic_layout import broadcast

            if broadcast(view.symbolic, [view.shape(inner.inputs[0]), *others]) == result:
                return {"node": node, "inner": inner, "index": index}
            return Miss("the other operand has not the full shape", 2)
        return Miss("no operand is an Expand")

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, index = bindings["node"], bindings["inner"], bindings["index"]
        inputs = list(node.inputs)
        inputs[index] = inner.inputs[0]
        new = view.copy(node, inputs)
        return Replacement([node, inner], {node.outputs[0]: new.outputs[0]}, [new])


class RemoveNeutral(_Forward):
    """Adding 0, multiplying or dividing by 1, raising to the power 1 → x."""

    name = "remove-neutral"
    anchors = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or")
    algebra = "x + 0 = x - 0 = x · 1 = x / 1 = x¹ = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        neutral = {"Add": 0, "Sub": 0, "Or": 0}.get(node.op_type, 1)
        for index in (1, 0) if node.op_type in ("Add", "Mul", "And", "Or") else (1,):
            constant, other = view.any_constant(node.inputs[index]), node.inputs[1 - index]
            if constant is None or constant.dtype.kind not in "fiub" or not bool(np.all(constant == neutral)):
                continue
            before, after = view.shape(other), view.shape(node.outputs[0])
            if constant.size == 1 and constant.ndim <= (view.rank(other) or 0):
                return {"node": node, "input": 1 - index}
            if before is None or before != after:
                return Miss("the constant broadcasts the other operand to a larger shape", 1)
            return {"node": node, "input": 1 - index}
        return Miss(f"no operand is constantly {neutral}")


class RemoveRepeatedActivation(_Forward):
    """An idempotent activation over itself, or Relu over what is never negative → the inner value."""

    name = "remove-repeated-activation"
    anchors = ("Relu", "Abs", "Ceil", "Floor", "Round", "Sign")
    algebra = "Relu(Relu(x)) = Relu(x), Relu(Sigmoid(x)) = Sigmoid(x)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = view.producer(node.inputs[0])
        if inner is None:
            return Miss("its input is not computed by a standard operator")
        nonnegative = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt", "Softplus")
        if inner.op_type == node.op_type or (node.op_type in ("Relu", "Abs") and inner.op_type in nonnegative):
            return {"node": node}
        return Miss(f"its input is a {inner.op_type}")


class RemoveSplit(_Forward):
    """A split into one part → x."""

    name = "remove-split"
    anchors = ("Split",)
    algebra = "Split(x; 1) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        if len(node.outputs) != 1:
            return Miss(f"it has {len(node.outputs)} parts")
        return {"node": node}


class RemovePool(_Forward):
    """A pool or a mean over windows of one element → x."""

    name = "remove-pool"
    anchors = ("MaxPool", "AveragePool")
    algebra = "MaxPool(x; kernel 1, stride 1, no padding) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        kernel = integers(node, "kernel_shape") or []
        strides, pads = integers(node, "strides") or [1], integers(node, "pads") or [0]
        if any(size != 1 for size in kernel):
            return Miss(f"its kernel is {kernel}")
        if any(step != 1 for step in strides) or any(pads):
            return Miss("it strides or pads", 1)
        if len(node.outputs) > 1 and node.outputs[1].uses():
            return Miss("its indices are used", 2)
        return {"node": node}
