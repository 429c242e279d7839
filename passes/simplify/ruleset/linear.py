"""Affine maps after or before Conv, ConvTranspose, Gemm and MatMul, and after BatchNormalization, are absorbed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from mopt.passes.simplify.ruleset.affine import ARITHMETIC, Affine, constant_value, growth, per_channel, read_affine
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integer, integers, real, text
from mopt.rewrite.constants import Array

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class FoldAffine(Rule):
    """Batch normalisation or per-channel arithmetic after a linear operator → its weight and bias."""

    name = "fold-affine"
    anchors = ("BatchNormalization", *ARITHMETIC)
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
        excess = None if new_weight is None or linear.inputs[1] is None else growth(view, linear.inputs[1], new_weight, compressed)
        if excess is not None:
            return Miss(excess, 6)
        return {"node": node, "linear": linear, "weight": new_weight, "bias": new_bias, "compressed": compressed}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, linear = bindings["node"], bindings["linear"]
        weight, bias, compressed = bindings["weight"], bindings["bias"], bindings["compressed"]
        return _relinked(view, linear, node.outputs[0], weight, bias, [node, linear], linear.inputs[0], compressed)


def _folded(
    linear: ir.Node, weight: Array, bias: Array | None, affine: Affine, rank: int | None
) -> tuple[Array | None, Array | None] | Miss:
    channels, axis = _outputs(linear, weight)
    scale, shift = affine.scale, affine.shift
    if scale.size not in (1, channels) or shift.size not in (1, channels):
        return Miss("the constant broadcasts the channels", 5)
    new_weight = None
    if bool(np.any(scale != 1)):
        new_weight = weight.astype(np.float64) * _along(_grouped(linear, scale, channels), axis, weight.ndim)
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


def _along(vector: Array, axis: int, rank: int) -> Array:
    return vector.reshape([-1 if position == axis else 1 for position in range(rank)])


def _relinked(
    view: View,
    linear: ir.Node,
    output: ir.Value,
    weight: Array | None,
    bias: Array | None,
    removed: list[ir.Node],
    source: ir.Value | None,
    compressed: bool,
    attributes: dict[str, Any] | None = None,
) -> Replacement:
    """Return `linear` with another weight, bias or input (None: as they are) in the place of `output`."""
    old_weight = linear.inputs[1]
    stored = view.any_constant(old_weight)
    assert stored is not None and old_weight is not None
    inputs: list[ir.Value | None] = [source, *linear.inputs[1:]]
    added: list[ir.Node] = []
    constants: list[ir.Value] = []
    for index, array, base in ((1, weight, old_weight.name), (2, bias, None)):
        if array is None:
            continue
        held = linear.inputs[index] if index < len(linear.inputs) else None
        name = base or (held.name if held is not None else f"{linear.name or output.name}_bias")
        value, nodes, initializers = constant_value(view, f"{name}_folded", array, stored.dtype, compressed=compressed)
        inputs[index:] = [value, *inputs[index + 1 :]]
        added += nodes
        constants += initializers
    new = view.copy(linear, inputs, attributes)
    return Replacement(removed, {output: new.outputs[0]}, [*added, new], constants)


class AbsorbAffine(Rule):
    """Per-channel arithmetic before a linear operator → its weight and bias.

    A shift passes through only where no padding puts zeros beside it; where there is one, the scale is moved
    behind it: s x + t = s (x + t / s).
    """

    name = "absorb-affine"
    anchors = LINEAR
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
        if affine.scale.size > 1 or affine.shift.size > 1:
            if before is None or before != after:
                return Miss("the constant may broadcast the channels", 5)
        if affine.keeps_zero:
            return self._scaled(view, node, weight, affine, [inner])
        if not _unpadded(view, node):
            return Miss("padding puts zeros beside the shifted values", 6)
        if node.op_type == "MatMul" or node.op_type == "ConvTranspose":
            return Miss(f"{node.op_type} can't take the shift into a bias", 6)
        return self._scaled(view, node, weight, affine, [inner])

    def _scaled(self, view: View, node: ir.Node, weight: Array, affine: Affine, inner: list[ir.Node]) -> Bindings | Miss:
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
        return _relinked(view, node, node.outputs[0], weight, bias, removed, source, compressed)


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
    return weight * _along(scale, axis, weight.ndim)


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


class MergeAffine(Rule):
    """Two per-channel maps in a row → one: into the batch normalisation, or one Mul or Add."""

    name = "merge-affine"
    anchors = ("BatchNormalization", *ARITHMETIC)
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
        shaped = vector.reshape(()) if vector.size == 1 else _along(vector, bindings["channel"], bindings["rank"])
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
    algebra = "s · x + t = s · (x + t / s)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = next((view.producer(value, "Mul", "Div") for value in node.inputs if view.producer(value, "Mul", "Div")), None)
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
        shaped = shift.reshape(()) if shift.size == 1 else _along(shift, *_place(view, bindings))
        addend = view.initializer(f"{output.name}_shift", shaped.astype(stored.dtype))
        factor = view.initializer(f"{output.name}_scale", bindings["scale"].reshape(()).astype(stored.dtype))
        added = view.node("Add", [bindings["source"], addend])
        scaled = view.node("Mul", [added.outputs[0], factor], like=output)
        return Replacement([node, inner], {output: scaled.outputs[0]}, [added, scaled], [addend, factor])


def _place(view: View, bindings: Bindings) -> tuple[int, int]:
    rank = view.rank(bindings["source"]) or 4
    return bindings["channel"] % rank, rank


class FoldPad(Rule):
    """Zero padding before a convolution → its own padding."""

    name = "fold-pad"
    anchors = ("Conv",)
    algebra = "Conv(Pad(x; p)) = Conv(x; pads + p)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        from mopt.rewrite.symbolic_spatial import pads_of

        pad = view.producer(node.inputs[0], "Pad")
        if pad is None:
            return Miss("its input is not padded")
        if text(pad, "mode", "constant") != "constant":
            return Miss(f"the padding mirrors or repeats ({text(pad, 'mode', '')})", 1)
        value = pad.inputs[2] if len(pad.inputs) > 2 else None
        fill = real(pad, "value", 0.0) if value is None else view.scalar(value)
        if fill != 0:
            return Miss("it pads with something other than 0", 2)
        if text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return Miss("the convolution computes its padding itself", 2)
        pads = pads_of(view.symbolic, pad)
        numbers = None if pads is None else [size for size in pads if isinstance(size, int)]
        if numbers is None or pads is None or len(numbers) != len(pads):
            return Miss("the paddings are not known", 2)
        rank = len(numbers) // 2
        if any(numbers[:2]) or any(numbers[rank : rank + 2]) or min(numbers) < 0:
            return Miss("it pads batch or channels, or crops", 3)
        own = integers(node, "pads") or [0] * (2 * (rank - 2))
        if text(node, "auto_pad", "NOTSET") == "VALID":
            own = [0] * len(own)
        extra = [*numbers[2:rank], *numbers[rank + 2 :]]
        return {"node": node, "pad": pad, "pads": [a + b for a, b in zip(own, extra, strict=True)]}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, pad = bindings["node"], bindings["pad"]
        new = view.copy(node, [pad.inputs[0], *node.inputs[1:]], {"pads": bindings["pads"], "auto_pad": None})
        return Replacement([node, pad], {node.outputs[0]: new.outputs[0]}, [new])


class MatMulToGemm(Rule):
    """A product of matrices plus a row vector → Gemm."""

    name = "matmul-add-to-gemm"
    anchors = ("Add",)
    opset = 7
    algebra = "A B + c = Gemm(A, B, c)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        index = next((i for i, value in enumerate(node.inputs) if view.producer(value, "MatMul")), None)
        if index is None:
            return Miss("neither operand is a MatMul")
        product = view.producer(node.inputs[index], "MatMul")
        assert product is not None
        if view.rank(product.inputs[0]) != 2 or view.rank(product.inputs[1]) != 2:
            return Miss(f"its operands have ranks {view.rank(product.inputs[0])} and {view.rank(product.inputs[1])}, Gemm takes 2", 1)  # fmt: skip
        dtype = view.dtype(product.inputs[0]) or view.dtype(product.inputs[1])
        if dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE):
            return Miss("Gemm is for floating point", 2)
        if not view.only_used_by(product.outputs[0], node):
            return Miss("the product has other readers", 2)
        addend, shape = node.inputs[1 - index], view.shape(product.outputs[0])
        bias = view.shape(addend)
        if shape is None or bias is None or len(bias) > 2 or view.shape(node.outputs[0]) != shape:
            return Miss("the addend is no row vector", 3)
        if len(bias) == 2 and bias[0] != 1 and bias != shape:
            return Miss("the addend is no row vector", 3)
        if bias and bias[-1] not in (1, shape[-1]):
            return Miss("the addend is no row vector", 3)
        return {"node": node, "product": product, "bias": addend}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, product = bindings["node"], bindings["product"]
        new = view.node("Gemm", [*product.inputs, bindings["bias"]], like=node.outputs[0])
        return Replacement([node, product], {node.outputs[0]: new.outputs[0]}, [new])
