"""Affine maps before Conv, ConvTranspose, Gemm and MatMul are absorbed by their weights."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.passes.simplify.ruleset.affine import ARITHMETIC, Affine, along, growth, per_channel, read_affine, relinked
from mopt.passes.simplify.ruleset.linear import LINEAR
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integer, integers, real, text
from mopt.rewrite.constants import Array


class AbsorbAffine(Rule):
    """Per-channel arithmetic before a linear operator → its weight and bias.

    A shift passes through only where no padding puts zeros beside it; where there is one, the scale is moved
    behind it: s x + t = s (x + t / s).
    """

    name = "absorb-affine"
    anchors = LINEAR
    after = ("BatchNormalization", *ARITHMETIC)
    algebra = "W (s · x + t) + b = (W s) x + (W t + b)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = view.producer(node.inputs[0], "BatchNormalization", *ARITHMETIC)
        if inner is None or node.inputs[0] is None:
            return Miss("its input is no batch normalisation or arithmetic")
        weight = view.any_constant(node.inputs[1])
        if weight is None or weight.dtype.kind != "f":
            return Miss("its weight is not constant", 1)
        convolves = node.op_type in ("Conv", "ConvTranspose")
        if node.op_type == "Gemm" and integer(node, "transA", 0):
            return Miss("it transposes its input", 1)
        rank = weight.ndim if convolves else 2 if node.op_type == "Gemm" else view.rank(node.inputs[0])
        affine = read_affine(view, inner, channel=1 if convolves else -1, rank=rank)
        if isinstance(affine, Miss):
            return Miss(affine.reason, 2 + affine.depth)
        if inner.op_type == "BatchNormalization" and not convolves and rank != 2:
            return Miss("batch normalisation is along axis 1, the channels are last", 5)
        if not view.only_used_by(node.inputs[0], node):
            return Miss(f"`{inner.name}` has other readers", 5)
        before, after = view.shape(affine.input), view.shape(node.inputs[0])
        if (affine.scale.size > 1 or affine.shift.size > 1) and (before is None or before != after):
            return Miss("the constant may broadcast the channels", 5)
        if affine.keeps_zero:
            return self._scaled(view, node, weight, affine, [inner])
        if not _unpadded(view, node):
            return Miss("padding puts zeros beside the shifted values", 6)
        if node.op_type == "MatMul" or node.op_type == "ConvTranspose":
            return Miss(f"{node.op_type} can't take the shift into a bias", 6)
        return self._scaled(view, node, weight, affine, [inner])

    def _scaled(
        self, view: View, node: ir.Node, weight: Array, affine: Affine, inner: list[ir.Node]
    ) -> Bindings | Miss:
        bias = None
        wide = weight.astype(np.float64)
        if not affine.keeps_zero:
            given = node.inputs[2] if len(node.inputs) > 2 else None
            old = view.any_constant(given)
            if given is not None and old is None:
                return Miss("its bias is not constant", 6)
            if node.op_type == "Gemm" and (real(node, "beta", 1.0) != 1.0 or real(node, "alpha", 1.0) != 1.0):
                return Miss("it scales by alpha or beta", 6)
            if node.op_type == "Gemm" and old is not None and per_channel(old, 2, -1) is None:
                return Miss("its bias varies along the rows", 6)
            moved = _through(node, wide, affine.shift)
            if moved is None:
                return Miss("the channels do not fit the weight", 6)
            bias = moved if old is None else old.reshape(-1).astype(np.float64) + moved
        new_weight = None
        if bool(np.any(affine.scale != 1)):
            new_weight = _input_scaled(node, wide, affine.scale)
            if new_weight is None:
                return Miss("the channels do not fit the weight", 6)
            compressed = view.is_compressed(node.inputs[1])
            excess = None if node.inputs[1] is None else growth(view, node.inputs[1], new_weight, compressed)
            if excess is not None:
                return Miss(excess, 6)
        return {"node": node, "inner": inner, "source": affine.input, "weight": new_weight, "bias": bias}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        compressed = view.is_compressed(node.inputs[1])
        removed = [node, *bindings["inner"]]
        weight, bias, source = bindings["weight"], bindings["bias"], bindings["source"]
        return relinked(view, node, node.outputs[0], weight, bias, removed, source, compressed)


def _unpadded(view: View, node: ir.Node) -> bool:
    if node.op_type not in ("Conv", "ConvTranspose"):
        return True
    return text(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(integers(node, "pads") or ())


def _input_scaled(node: ir.Node, weight: Array, scale: Array) -> Array | None:
    """Scale a weight along the axis of its input channels."""
    if scale.size == 1:
        return weight * scale.reshape(())
    groups = integer(node, "group", 1)
    if node.op_type == "Conv":
        per_group = weight.shape[1]
        if scale.size != per_group * groups:
            return None
        parts = weight.reshape(groups, -1, *weight.shape[1:])
        factors = scale.reshape(groups, 1, per_group, *(1 for _ in weight.shape[2:]))
        return (parts * factors).reshape(weight.shape)
    axis = 0 if node.op_type == "ConvTranspose" else 1 if integer(node, "transB", 0) else weight.ndim - 2
    if axis < 0 or scale.size != weight.shape[axis]:
        return None
    return weight * along(scale, axis, weight.ndim)


def _through(node: ir.Node, weight: Array, shift: Array) -> Array | None:
    """Return what a constant input of `shift` per channel adds to each output channel."""
    if node.op_type == "Gemm":
        matrix = weight if integer(node, "transB", 0) else weight.T
        if shift.size not in (1, matrix.shape[1]):
            return None
        return np.asarray(matrix @ np.broadcast_to(shift, (matrix.shape[1],)))
    groups, per_group = integer(node, "group", 1), weight.shape[1]
    if shift.size not in (1, per_group * groups):
        return None
    summed = weight.reshape(groups, -1, per_group, int(np.prod(weight.shape[2:], dtype=np.int64))).sum(axis=3)
    parts = np.broadcast_to(shift, (per_group * groups,)).reshape(groups, 1, per_group)
    return np.asarray((summed * parts).sum(axis=2).reshape(-1))
