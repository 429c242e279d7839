"""Reductions: over nothing, and with the dimension they drop put back."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integer
from mopt.rewrite.symbolic_layout import axes_of

_REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
    "ReduceLogSumExp", "ReduceSumSquare",
)  # fmt: skip
_OVER_ONE = _REDUCTIONS[:5]
"""Reductions that give the one element there is; the others give its magnitude, logarithm or square."""


class RemoveReduction(Rule):
    """A mean, sum, maximum, minimum or product over dimensions of size 1 → x, or a Squeeze."""

    name = "remove-reduction"
    anchors = _OVER_ONE
    algebra = "ReduceMean(x[N, 1]; axis 1) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        shape, axes = view.shape(node.inputs[0]), axes_of(view.symbolic, node)
        if shape is None or axes is None or not axes:
            return Miss("its axes or the shape are not known")
        wide = [axis for axis in axes if shape[axis] != 1]
        if wide:
            return Miss(f"axis {wide[0]} has {shape[wide[0]]} elements", 1)
        return {"node": node, "axes": sorted(axis % len(shape) for axis in axes), "keep": integer(node, "keepdims", 1)}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, axes, output = bindings["node"], bindings["axes"], bindings["node"].outputs[0]
        if bindings["keep"]:
            return Replacement([node], {output: node.inputs[0]})
        if view.opset < 13:
            new = view.node("Squeeze", [node.inputs[0]], {"axes": axes}, like=output)
            return Replacement([node], {output: new.outputs[0]}, [new])
        operand = view.initializer(f"{output.name}_axes", np.array(axes, np.int64))
        new = view.node("Squeeze", [node.inputs[0], operand], like=output)
        return Replacement([node], {output: new.outputs[0]}, [new], [operand])


class KeepReducedDims(Rule):
    """Unsqueeze of the dimensions a reduction dropped → a reduction that keeps them, and the other way round."""

    name = "keep-reduced-dims"
    anchors = ("Unsqueeze", "Squeeze")
    after = (*_REDUCTIONS, "ArgMax", "ArgMin")
    algebra = "Unsqueeze(ReduceMean(x; a, keepdims=0); a) = ReduceMean(x; a, keepdims=1)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = view.producer(node.inputs[0], *_REDUCTIONS, "ArgMax", "ArgMin")
        if inner is None:
            return Miss("its input is no reduction")
        rank, axes = view.rank(inner.inputs[0]), axes_of(view.symbolic, node)
        reduced = [integer(inner, "axis", 0)] if inner.op_type.startswith("Arg") else axes_of(view.symbolic, inner)
        if axes is None or not reduced or (rank is None and sorted(axes) != sorted(reduced)):
            return Miss("the axes or the rank are not known", 1)
        if rank is not None and sorted(axis % rank for axis in axes) != sorted(axis % rank for axis in reduced):
            return Miss("they are other axes", 2)
        keep = 1 if node.op_type == "Unsqueeze" else 0
        if integer(inner, "keepdims", 1) == keep:
            return Miss("the reduction does so already", 2)
        if not view.only_used_by(inner.outputs[0], node):
            return Miss("the reduction has other readers", 3)
        return {"node": node, "inner": inner, "keep": keep}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner = bindings["node"], bindings["inner"]
        new = view.copy(inner, list(inner.inputs), {"keepdims": bindings["keep"]})
        new.outputs[0].shape = node.outputs[0].shape
        return Replacement([node, inner], {node.outputs[0]: new.outputs[0]}, [new])
