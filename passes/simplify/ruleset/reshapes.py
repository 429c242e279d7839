"""Operators that only re-group dimensions: Reshape, Flatten, Squeeze, Unsqueeze, and a Transpose that moves ones.

Each keeps the elements in order, so a chain of them is one Reshape, and none where the shape is the one at the
start. Dynamic dimensions are followed as symbols: a target that an exporter computes with Shape, Gather and Concat
becomes a constant with a 0 (keep) or a -1 (the rest) in it.
"""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integer, integers
from mopt.rewrite.symbolic import Shape
from mopt.rewrite.symbolic_layout import axes_of

REGROUPING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def reshape_target(before: Shape, after: Shape) -> list[int] | None:
    """Return the constant target that reshapes `before` into `after`; None where more than one size is unknown.

    A dynamic size that stays on its axis is a 0; one other is a -1.
    """
    target: list[int] = []
    holes = 0
    for axis, size in enumerate(after):
        if isinstance(size, int):
            if size == 0:
                return None
            target.append(size)
        elif axis < len(before) and before[axis] == size:
            target.append(0)
        else:
            target.append(-1)
            holes += 1
    return target if holes <= 1 else None


def keeps_order(before: Shape, permutation: list[int]) -> bool:
    """Say whether a permutation moves nothing but dimensions of size 1."""
    moved = [axis for axis in permutation if before[axis] != 1]
    return moved == sorted(moved)


def _regroups(view: View, node: ir.Node | None) -> bool:
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in REGROUPING:
        return True
    shape = view.shape(node.inputs[0]) if node.op_type == "Transpose" else None
    return shape is not None and keeps_order(shape, _permutation(node, len(shape)))


def _permutation(node: ir.Node, rank: int) -> list[int]:
    return integers(node, "perm") or list(reversed(range(rank)))


class RemoveReshape(Rule):
    """A regrouping to the shape the value has → x."""

    name = "remove-reshape"
    anchors = (*REGROUPING, "Transpose")
    algebra = "Reshape(x, shape(x)) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        before, after = view.shape(node.inputs[0]), view.shape(node.outputs[0])
        if before is None or after is None:
            return Miss("a shape is unknown")
        if before != after:
            return Miss(f"it turns {list(before)} into {list(after)}", 1)
        if node.op_type == "Transpose" and not keeps_order(before, _permutation(node, len(before))):
            return Miss("it moves elements", 2)
        return {"node": node}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        return Replacement([node], {node.outputs[0]: node.inputs[0]})


class MergeReshapes(Rule):
    """A chain of regroupings → one Reshape, Squeeze or Unsqueeze, or nothing."""

    name = "merge-reshapes"
    anchors = (*REGROUPING, "Transpose")
    after = (*REGROUPING, "Transpose")
    algebra = "Reshape(Reshape(x, s), t) = Reshape(x, t)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        if not _regroups(view, node):
            return Miss("it moves elements")
        inner = view.producer(node.inputs[0])
        if inner is None or not _regroups(view, inner):
            return Miss("its input is not regrouped")
        before, after = view.shape(inner.inputs[0]), view.shape(node.outputs[0])
        if before is None or after is None:
            fallback = _merged_axes(view, node, inner)
            return Miss("a shape is unknown", 1) if fallback is None else fallback
        if before == after:
            return {"node": node, "inner": inner, "kind": "none"}
        target = reshape_target(before, after)
        if target is not None:
            return {"node": node, "inner": inner, "kind": "Reshape", "axes": target}
        fallback = _merged_axes(view, node, inner)
        if fallback is not None:
            return fallback
        return Miss(f"{list(before)} to {list(after)} leaves more than one size to be computed", 2)

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, kind = bindings["node"], bindings["inner"], bindings["kind"]
        source, output = inner.inputs[0], node.outputs[0]
        if kind == "none":
            return Replacement([node, inner], {output: source})
        return _regrouping(view, kind, bindings["axes"], source, node, [node, inner])


def _merged_axes(view: View, node: ir.Node, inner: ir.Node) -> Bindings | None:
    """Merge two Squeezes or two Unsqueezes by their axes where the sizes are of no help."""
    if node.op_type != inner.op_type or node.op_type not in ("Squeeze", "Unsqueeze"):
        return None
    outer_axes, inner_axes, rank = (
        axes_of(view.symbolic, node),
        axes_of(view.symbolic, inner),
        view.rank(inner.inputs[0]),
    )
    if outer_axes is None or inner_axes is None or rank is None:
        return None
    if node.op_type == "Unsqueeze":
        middle = rank + len(inner_axes)
        final = middle + len(outer_axes)
        outer = {axis % final for axis in outer_axes}
        positions = [axis for axis in range(final) if axis not in outer]
        merged = sorted([*outer, *(positions[axis % middle] for axis in inner_axes)])
    else:
        gone = {axis % rank for axis in inner_axes}
        positions = [axis for axis in range(rank) if axis not in gone]
        merged = sorted([*gone, *(positions[axis % len(positions)] for axis in outer_axes)])
    return {"node": node, "inner": inner, "kind": node.op_type, "axes": merged}


def _regrouping(
    view: View, kind: str, numbers: list[int], source: ir.Value, node: ir.Node, removed: list[ir.Node]
) -> Replacement:
    output = node.outputs[0]
    if kind != "Reshape" and view.opset < 13:
        new = view.node(kind, [source], {"axes": numbers}, like=output)
        return Replacement(removed, {output: new.outputs[0]}, [new])
    operand = view.initializer(f"{output.name}_{'shape' if kind == 'Reshape' else 'axes'}", np.array(numbers, np.int64))
    new = view.node(kind, [source, operand], like=output)
    return Replacement(removed, {output: new.outputs[0]}, [new], [operand])


class StaticReshape(Rule):
    """A Reshape whose target is computed → a constant target."""

    name = "static-reshape"
    anchors = ("Reshape",)
    algebra = "Reshape(x, [dim(x, 0), 12, 32]) = Reshape(x, [0, 12, 32])"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        if view.constant(node.inputs[1]) is not None:
            return Miss("its target is constant")
        before, after = view.shape(node.inputs[0]), view.shape(node.outputs[0])
        if before is None or after is None:
            return Miss("a shape is unknown", 1)
        target = reshape_target(before, after)
        if target is None:
            return Miss(f"{list(before)} to {list(after)} leaves more than one size to be computed", 2)
        return {"node": node, "target": target}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        return _regrouping(view, "Reshape", bindings["target"], node.inputs[0], node, [node])


class TransposeToReshape(Rule):
    """A Transpose that moves only dimensions of size 1, next to another regrouping → Reshape."""

    name = "transpose-to-reshape"
    anchors = ("Transpose",)
    algebra = "Transpose(x[N, 1, T]; 0, 2, 1) = Reshape(x, [N, T, 1])"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        before = view.shape(node.inputs[0])
        if before is None:
            return Miss("the input's shape is unknown")
        if not keeps_order(before, _permutation(node, len(before))):
            return Miss("it moves elements", 1)
        after = view.shape(node.outputs[0])
        target = None if after is None else reshape_target(before, after)
        if target is None:
            return Miss("more than one size would have to be computed", 2)
        return {"node": node, "target": target}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        return _regrouping(view, "Reshape", bindings["target"], node.inputs[0], node, [node])


class MergeTransposes(Rule):
    """Two transposes in a row → one, or none."""

    name = "merge-transposes"
    anchors = ("Transpose",)
    after = ("Transpose",)
    algebra = "Transpose(Transpose(x; p); q) = Transpose(x; p[q])"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = view.producer(node.inputs[0], "Transpose")
        if inner is None:
            return Miss("its input is no Transpose")
        first, second = integers(inner, "perm"), integers(node, "perm")
        rank = view.rank(inner.inputs[0]) or len(first or second or ())
        if not rank:
            return Miss("neither names its permutation and the rank is unknown", 1)
        first, second = first or list(reversed(range(rank))), second or list(reversed(range(rank)))
        return {"node": node, "inner": inner, "perm": [first[axis] for axis in second]}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, order = bindings["node"], bindings["inner"], bindings["perm"]
        if order == sorted(order):
            return Replacement([node, inner], {node.outputs[0]: inner.inputs[0]})
        new = view.node("Transpose", [inner.inputs[0]], {"perm": order}, like=node.outputs[0])
        return Replacement([node, inner], {node.outputs[0]: new.outputs[0]}, [new])


class RemoveTranspose(Rule):
    """The identity permutation → x."""

    name = "remove-transpose"
    anchors = ("Transpose",)
    algebra = "Transpose(x; 0, 1, …, n) = x"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        order = integers(node, "perm")
        if order is None or order != sorted(order):
            return Miss("it permutes dimensions")
        return {"node": node}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        return Replacement([node], {node.outputs[0]: node.inputs[0]})


class TransposeIntoGemm(Rule):
    """The transpose of a matrix read by Gemm → Gemm's own flag."""

    name = "transpose-into-gemm"
    anchors = ("Gemm",)
    after = ("Transpose",)
    algebra = "Gemm(Aᵀ, B) = Gemm(A, B; transA=1)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        for index, flag in enumerate(("transA", "transB")):
            inner = view.producer(node.inputs[index], "Transpose")
            if inner is not None and (integers(inner, "perm") or [1, 0]) == [1, 0]:
                return {"node": node, "inner": inner, "index": index, "flag": flag}
        return Miss("no operand is a Transpose")

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, flag = bindings["node"], bindings["inner"], bindings["flag"]
        inputs = list(node.inputs)
        inputs[bindings["index"]] = inner.inputs[0]
        new = view.copy(node, inputs, {flag: 1 - integer(node, flag, 0)})
        return Replacement([node, inner], {node.outputs[0]: new.outputs[0]}, [new])
