"""Affine maps in a row are merged, and ordered so that what follows can absorb them."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.passes.simplify.ruleset.affine import ARITHMETIC, along, per_channel, read_affine
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View


class MergeAffine(Rule):
    """Two per-channel maps in a row → one: into the batch normalisation, or one Mul or Add."""

    name = "merge-affine"
    anchors = ("BatchNormalization", *ARITHMETIC)
    after = ("BatchNormalization", *ARITHMETIC)
    algebra = "s (γ x + β) + t = (s γ) x + (s β + t);  (x · a) · b = x · (a b);  (x + a) + b = x + (a + b)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = next((view.producer(value, "BatchNormalization", *ARITHMETIC) for value in node.inputs
                      if view.producer(value, "BatchNormalization", *ARITHMETIC)), None)  # fmt: skip
        if inner is None:
            return Miss("its input is no batch normalisation or arithmetic")
        rank = view.rank(inner.outputs[0])
        channel = 1
        if node.op_type != "BatchNormalization" and inner.op_type != "BatchNormalization":
            # Neither fixes the channel axis: the constants do, whichever they vary along.
            channel = next((axis for axis in range(rank or 0) if _varies(view, (inner, node), rank, axis)), 1)
        outer_map = read_affine(view, node, channel=channel)
        inner_map = read_affine(view, inner, channel=channel)
        if isinstance(outer_map, Miss) or isinstance(inner_map, Miss):
            missed = outer_map if isinstance(outer_map, Miss) else inner_map
            return Miss(missed.reason if isinstance(missed, Miss) else "", 1)
        if outer_map.input is not inner.outputs[0]:
            return Miss("the constant operand is computed", 1)
        if not view.only_used_by(inner.outputs[0], node):
            return Miss(f"`{inner.name}` has other readers", 3)
        before, after = view.shape(inner_map.input), view.shape(node.outputs[0])
        if before is None or before != after:
            return Miss("a constant may broadcast to a larger shape", 3)
        scale = inner_map.scale * outer_map.scale
        shift = inner_map.shift * outer_map.scale + outer_map.shift
        found = {"node": node, "inner": inner, "source": inner_map.input, "scale": scale, "shift": shift,
                 "channel": channel, "rank": rank}  # fmt: skip
        if "BatchNormalization" in (node.op_type, inner.op_type):
            dtype = view.dtype(inner_map.input) or view.dtype(node.inputs[0])
            size = before[1] if len(before) > 1 else None
            return {**found, "kind": "BatchNormalization", "dtype": dtype, "size": size} if dtype and isinstance(
                size, int) else Miss("the number of channels is unknown", 4)  # fmt: skip
        operands = [view.any_constant(value) for value in (*node.inputs, *inner.inputs)]
        array = next((constant for constant in operands if constant is not None), None)
        if array is None:
            return Miss("neither has a constant operand", 4)
        if not np.any(shift):
            return {**found, "kind": "Mul", "dtype": array.dtype}
        if np.all(scale == 1):
            return {**found, "kind": "Add", "dtype": array.dtype}
        return Miss("a Mul and an Add are as many nodes together as apart", 4)

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, output = bindings["node"], bindings["inner"], bindings["node"].outputs[0]
        if bindings["kind"] == "BatchNormalization":
            size, dtype = bindings["size"], bindings["dtype"].numpy()
            arrays = (bindings["scale"], bindings["shift"], np.zeros(size), np.ones(size) - _EPSILON)
            constants = [
                view.initializer(f"{output.name}_{name}", np.broadcast_to(array, (size,)).astype(dtype))
                for name, array in zip(("scale", "bias", "mean", "variance"), arrays, strict=True)
            ]
            attributes = {"epsilon": _EPSILON}
            new = view.node("BatchNormalization", [bindings["source"], *constants], attributes, like=output)
            return Replacement([node, inner], {output: new.outputs[0]}, [new], constants)
        vector = bindings["scale"] if bindings["kind"] == "Mul" else bindings["shift"]
        shaped = vector.reshape(()) if vector.size == 1 else along(vector, bindings["channel"], bindings["rank"])
        constant = view.initializer(f"{output.name}_{bindings['kind'].lower()}", shaped.astype(bindings["dtype"]))
        new = view.node(bindings["kind"], [bindings["source"], constant], like=output)
        return Replacement([node, inner], {output: new.outputs[0]}, [new], [constant])


_EPSILON = 2.0**-17
"""Epsilon of a merged batch normalisation: exact in every float type, and 1 - ε is, too, in float32."""


def _varies(view: View, nodes: tuple[ir.Node, ir.Node], rank: int | None, axis: int) -> bool:
    arrays = [view.any_constant(value) for node in nodes for value in node.inputs]
    constants = [array for array in arrays if array is not None and array.size > 1]
    return bool(constants) and all(per_channel(array, rank, axis) is not None for array in constants)


class ScalePastShift(Rule):
    """A scale before a shift before a linear operator with padding → behind the shift, where the weight takes it."""

    name = "scale-past-shift"
    anchors = ("Add",)
    after = ("Mul", "Div")
    algebra = "s · x + t = s · (x + t / s)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = next(
            (view.producer(value, "Mul", "Div") for value in node.inputs if view.producer(value, "Mul", "Div")), None
        )
        if inner is None:
            return Miss("its input is no scaled value")
        linear = view.only_user(node.outputs[0], "Conv", "MatMul", "Gemm")
        if linear is None or linear.inputs[0] is not node.outputs[0]:
            return Miss("what reads it can't take the scale into a weight", 1)
        if view.any_constant(linear.inputs[1]) is None or not view.only_used_by(inner.outputs[0], node):
            return Miss("the weight is not constant or the scaled value has other readers", 2)
        channel = 1 if linear.op_type == "Conv" else -1
        first, second = read_affine(view, inner, channel=channel), read_affine(view, node, channel=channel)
        if isinstance(first, Miss) or isinstance(second, Miss) or second.input is not inner.outputs[0]:
            return Miss("the scale or the shift is not per channel", 3)
        if first.scale.size != 1 or abs(float(first.scale[0])) < 1e-3:
            return Miss("the scale is no scalar, or too near zero to divide by", 4)
        return {"node": node, "inner": inner, "source": first.input, "scale": first.scale, "shift": second.shift,
                "channel": channel}  # fmt: skip

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, output = bindings["node"], bindings["inner"], bindings["node"].outputs[0]
        stored = next(array for array in (view.any_constant(value) for value in node.inputs) if array is not None)
        shift = bindings["shift"] / bindings["scale"]
        shaped = shift.reshape(()) if shift.size == 1 else along(shift, *_place(view, bindings))
        addend = view.initializer(f"{output.name}_shift", shaped.astype(stored.dtype))
        factor = view.initializer(f"{output.name}_scale", bindings["scale"].reshape(()).astype(stored.dtype))
        added = view.node("Add", [bindings["source"], addend])
        scaled = view.node("Mul", [added.outputs[0], factor], like=output)
        return Replacement([node, inner], {output: scaled.outputs[0]}, [added, scaled], [addend, factor])


def _place(view: View, bindings: Bindings) -> tuple[int, int]:
    rank = view.rank(bindings["source"]) or 4
    return bindings["channel"] % rank, rank
