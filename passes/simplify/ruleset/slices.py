"""Slices, concatenations and look-ups."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integer
from mopt.rewrite.symbolic_layout import axes_of, slice_bounds


class MergeSlices(Rule):
    """Slices of different axes in a row → one."""

    name = "merge-slices"
    anchors = ("Slice",)
    after = ("Slice",)
    algebra = "x[a:b, :][:, c:d] = x[a:b, c:d]"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = view.producer(node.inputs[0], "Slice")
        if inner is None:
            return Miss("its input is no Slice")
        outer_bounds, inner_bounds = slice_bounds(view.symbolic, node), slice_bounds(view.symbolic, inner)
        if outer_bounds is None or inner_bounds is None:
            return Miss("the bounds are not known", 1)
        if {axis for axis, *_ in outer_bounds} & {axis for axis, *_ in inner_bounds}:
            return Miss("both slice the same axis", 2)
        bounds = [*inner_bounds, *outer_bounds]
        if not all(isinstance(bound, int) for _, *rest in bounds for bound in rest):
            return Miss("a bound is dynamic", 2)
        return {"node": node, "inner": inner, "bounds": bounds}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, bounds = bindings["node"], bindings["inner"], bindings["bounds"]
        output = node.outputs[0]
        axes, starts, ends, steps = (list(column) for column in zip(*bounds, strict=True))
        if view.opset < 10:
            attributes = {"axes": axes, "starts": starts, "ends": ends}
            new = view.node("Slice", [inner.inputs[0]], attributes, like=output)
            return Replacement([node, inner], {output: new.outputs[0]}, [new])
        operands = [
            view.initializer(f"{output.name}_{name}", np.array(numbers, np.int64))
            for name, numbers in (("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps))
        ]
        new = view.node("Slice", [inner.inputs[0], *operands], like=output)
        return Replacement([node, inner], {output: new.outputs[0]}, [new], operands)


class MergeConcats(Rule):
    """A concatenation inside a concatenation along the same axis → one."""

    name = "merge-concats"
    anchors = ("Concat",)
    after = ("Concat",)
    algebra = "Concat(Concat(a, b), c) = Concat(a, b, c)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        axis, rank = integer(node, "axis", 0), view.rank(node.outputs[0])
        nearest = Miss("no operand is a Concat")
        for index, value in enumerate(node.inputs):
            inner = view.producer(value, "Concat")
            if inner is None or value is None:
                continue
            if not view.only_used_by(value, node):
                nearest = Miss("the inner one has other readers", 1)
                continue
            other = integer(inner, "axis", 0)
            if axis != other and (rank is None or axis % rank != other % rank):
                nearest = Miss("they join different axes", 2)
                continue
            return {"node": node, "inner": inner, "index": index}
        return nearest

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, index = bindings["node"], bindings["inner"], bindings["index"]
        inputs = [*node.inputs[:index], *inner.inputs, *node.inputs[index + 1 :]]
        new = view.copy(node, inputs)
        return Replacement([node, inner], {node.outputs[0]: new.outputs[0]}, [new])


class GatherRangeToSlice(Rule):
    """A look-up at 0, 1, …, n-1 along an axis → a slice."""

    name = "gather-range-to-slice"
    anchors = ("Gather",)
    after = ("Range",)
    opset = 10
    algebra = "Gather(x, Range(0, n, 1)) = x[0:n]"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        ranged = view.producer(node.inputs[1], "Range")
        if ranged is None:
            return Miss("its indices are no Range")
        if view.numbers(ranged.inputs[0]) != [0] or view.numbers(ranged.inputs[2]) != [1]:
            return Miss("the Range does not run 0, 1, 2, …", 1)
        limit = view.producer(ranged.inputs[1], "Gather", "Squeeze")
        if limit is None:
            return Miss("the Range's limit is no dimension", 2)
        if limit.op_type == "Gather":
            index = view.constant(limit.inputs[1])
            if index is None or index.ndim or view.producer(limit.inputs[0], "Shape") is None:
                return Miss("the Range's limit is no dimension", 3)
            start = int(index)
            return {"node": node, "ranged": ranged, "limit": limit, "shape": limit.inputs[0], "index": start}
        return Miss("the Range's limit is no dimension", 3)

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, limit = bindings["node"], bindings["limit"]
        output = node.outputs[0]
        # As a vector: what Slice wants its bounds to be.
        index = view.initializer(f"{output.name}_index", np.array([bindings["index"]], np.int64))
        bound = view.node("Gather", [bindings["shape"], index], {"axis": 0})
        zero = view.initializer(f"{output.name}_start", np.array([0], np.int64))
        axis = view.initializer(f"{output.name}_axis", np.array([integer(node, "axis", 0)], np.int64))
        new = view.node("Slice", [node.inputs[0], zero, bound.outputs[0], axis], like=output)
        removed = [node, bindings["ranged"], limit]
        return Replacement(removed, {output: new.outputs[0]}, [bound, new], [index, zero, axis])


class UnsqueezeIntoGather(Rule):
    """Unsqueeze of a scalar look-up along its own axis → a look-up with a vector of one index."""

    name = "unsqueeze-into-gather"
    anchors = ("Unsqueeze",)
    after = ("Gather",)
    algebra = "Unsqueeze(Gather(x, i; axis a); a) = Gather(x, [i]; axis a)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = view.producer(node.inputs[0], "Gather")
        if inner is None:
            return Miss("its input is no Gather")
        index, rank, axes = view.constant(inner.inputs[1]), view.rank(inner.inputs[0]), axes_of(view.symbolic, node)
        if index is None or index.ndim:
            return Miss("it looks more than one constant place up", 1)
        if rank is None or axes is None or len(axes) != 1:
            return Miss("the rank or the axis is unknown", 2)
        axis = integer(inner, "axis", 0) % rank
        if axes[0] % rank != axis:
            return Miss(f"the look-up is along axis {axis}, the new one is {axes[0]}", 3)
        if not view.only_used_by(inner.outputs[0], node):
            return Miss("the element is read elsewhere, too", 4)
        return {"node": node, "inner": inner, "index": index, "axis": axis}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner = bindings["node"], bindings["inner"]
        output = node.outputs[0]
        index = view.initializer(f"{output.name}_index", bindings["index"].reshape(1))
        new = view.node("Gather", [inner.inputs[0], index], {"axis": bindings["axis"]}, like=output)
        return Replacement([node, inner], {output: new.outputs[0]}, [new], [index])
