"""Affine maps after Conv, ConvTranspose, Gemm and MatMul are folded into their weights."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.passes.simplify.ruleset.affine import ARITHMETIC, Affine, along, growth, per_channel, read_affine, relinked
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integer, real
from mopt.rewrite.constants import Array

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class FoldAffine(Rule):
    """Batch normalisation or per-channel arithmetic after a linear operator → its weight and bias."""

    name = "fold-affine"
    anchors = ("BatchNormalization", *ARITHMETIC)
    after = LINEAR
    algebra = "s · (W x + b) + t = (s W) x + (s b + t)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        linear = next((view.producer(value, *LINEAR) for value in node.inputs if view.producer(value, *LINEAR)), None)
        if linear is None:
            return Miss("its input is not computed by Conv, ConvTranspose, Gemm or MatMul")
        weight = view.any_constant(linear.inputs[1])
        if weight is None or weight.dtype.kind != "f":
            return Miss(f"the weight of `{linear.name}` is not constant", 1)
        convolves = linear.op_type in ("Conv", "ConvTranspose")
        rank = weight.ndim if convolves else 2 if linear.op_type == "Gemm" else view.rank(linear.outputs[0])
        affine = read_affine(view, node, channel=1 if convolves else -1, rank=rank)
        if isinstance(affine, Miss):
            return Miss(affine.reason, 2 + affine.depth)
        if not view.only_used_by(linear.outputs[0], node):
            return Miss(f"`{linear.name}` has other readers", 5)
        if node.op_type == "BatchNormalization" and not convolves and rank != 2:
            return Miss("batch normalisation is along axis 1, the channels are last", 5)
        bias = view.any_constant(linear.inputs[2]) if len(linear.inputs) > 2 and linear.inputs[2] is not None else None
        if bias is None and len(linear.inputs) > 2 and linear.inputs[2] is not None:
            return Miss("its bias is not constant", 5)
        parts = _folded(linear, weight, bias, affine, rank)
        if isinstance(parts, Miss):
            return parts
        new_weight, new_bias = parts
        compressed = view.is_compressed(linear.inputs[1])
        excess = (
            None
            if new_weight is None or linear.inputs[1] is None
            else growth(view, linear.inputs[1], new_weight, compressed)
        )
        if excess is not None:
            return Miss(excess, 6)
        return {"node": node, "linear": linear, "weight": new_weight, "bias": new_bias, "compressed": compressed}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, linear = bindings["node"], bindings["linear"]
        weight, bias, compressed = bindings["weight"], bindings["bias"], bindings["compressed"]
        return relinked(view, linear, node.outputs[0], weight, bias, [node, linear], linear.inputs[0], compressed)


def _folded(
    linear: ir.Node, weight: Array, bias: Array | None, affine: Affine, rank: int | None
) -> tuple[Array | None, Array | None] | Miss:
    channels, axis = _outputs(linear, weight)
    scale, shift = affine.scale, affine.shift
    if scale.size not in (1, channels) or shift.size not in (1, channels):
        return Miss("the constant broadcasts the channels", 5)
    new_weight = None
    if bool(np.any(scale != 1)):
        new_weight = weight.astype(np.float64) * along(_grouped(linear, scale, channels), axis, weight.ndim)
        if linear.op_type == "ConvTranspose" and scale.size > 1 and integer(linear, "group", 1) > 1:
            new_weight = _scaled_transpose(linear, weight, scale)
    if bias is None and affine.keeps_zero:
        return new_weight, None
    if linear.op_type == "MatMul":
        return Miss("MatMul has no bias; it becomes Gemm first where it is a product of matrices", 5)
    if linear.op_type == "Gemm" and real(linear, "beta", 1.0) != 1.0:
        return Miss("its bias is scaled by beta", 5)
    if linear.op_type == "Gemm" and bias is not None and per_channel(bias, 2, -1) is None:
        return Miss("its bias varies along the rows", 5)
    old = np.zeros(channels) if bias is None else bias.reshape(-1).astype(np.float64)
    return new_weight, np.broadcast_to(old * scale + shift, (channels,))


def _outputs(linear: ir.Node, weight: Array) -> tuple[int, int]:
    """Return the number of output channels and the axis of the weight they lie along."""
    if linear.op_type == "Conv":
        return weight.shape[0], 0
    if linear.op_type == "ConvTranspose":
        return weight.shape[1] * integer(linear, "group", 1), 1
    axis = 0 if linear.op_type == "Gemm" and integer(linear, "transB", 0) else weight.ndim - 1
    return weight.shape[axis], axis


def _grouped(linear: ir.Node, scale: Array, channels: int) -> Array:
    grouped = linear.op_type == "ConvTranspose" and integer(linear, "group", 1) > 1 and scale.size == channels
    return np.ones(1) if grouped else scale


def _scaled_transpose(linear: ir.Node, weight: Array, scale: Array) -> Array:
    groups = integer(linear, "group", 1)
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).astype(np.float64)
    factors = scale.reshape(groups, 1, -1, *(1 for _ in weight.shape[2:]))
    return (parts * factors).reshape(weight.shape)
