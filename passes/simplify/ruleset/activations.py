"""Activations that an exporter spelled out in arithmetic, as the operator they are."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import real

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def other_operand(view: View, node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return the computed operand and the scalar constant of a binary node that keeps the operand's shape."""
    for index in (1, 0):
        scalar, other = view.scalar(node.inputs[index]), node.inputs[1 - index]
        constant = view.any_constant(node.inputs[index])
        if scalar is None or other is None or constant is None or view.any_constant(other) is not None:
            continue
        if constant.ndim > (view.rank(other) or 0) and constant.ndim > 0:
            continue
        return other, scalar
    return None


def clip_bounds(view: View, node: ir.Node) -> tuple[float, float] | None:
    """Return the limits of a Clip or Relu; None where they are not constant."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    if len(node.inputs) == 1:
        return real(node, "min", -math.inf), real(node, "max", math.inf)
    bounds = [-math.inf, math.inf]
    for index in (1, 2):
        value = node.inputs[index] if len(node.inputs) > index else None
        if value is not None:
            scalar = view.scalar(value)
            if scalar is None:
                return None
            bounds[index - 1] = scalar
    return bounds[0], bounds[1]


def _scaling(view: View, node: ir.Node) -> tuple[ir.Value, float] | None:
    """Read `x · c` or `x / c` as (x, factor)."""
    found = other_operand(view, node)
    if found is None or (node.op_type == "Div" and view.scalar(node.inputs[1]) is None):
        return None
    value, scalar = found
    if node.op_type == "Div":
        return (value, 1.0 / scalar) if scalar else None
    return value, scalar


def _shifted_clip(view: View, clip: ir.Node) -> tuple[ir.Value, float, float, list[ir.Node]] | None:
    """Read Clip(x + b; 0, m) as (x, b, m, its nodes)."""
    bounds = clip_bounds(view, clip)
    shift = view.producer(clip.inputs[0], "Add")
    if bounds is None or bounds[0] != 0 or not 0 < bounds[1] < math.inf or shift is None:
        return None
    operand = other_operand(view, shift)
    if operand is None:
        return None
    return operand[0], operand[1], bounds[1], [clip, shift]


class FuseHardSigmoid(Rule):
    """Clip(x + b; 0, m) / m → HardSigmoid."""

    name = "fuse-hardsigmoid"
    anchors = ("Mul", "Div")
    after = ("Clip",)
    opset = 6
    algebra = "clip(x + b, 0, m) / m = HardSigmoid(x; α = 1/m, β = b/m) = max(0, min(1, α x + β))"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        scaled = _scaling(view, node)
        if scaled is None:
            return Miss("it does not scale by a constant")
        clip = view.producer(scaled[0], "Clip")
        if clip is None:
            return Miss("what it scales is no Clip", 1)
        read = _shifted_clip(view, clip)
        if read is None:
            return Miss("the Clip does not limit x + b to 0 … m", 2)
        source, shift, limit, nodes = read
        if abs(scaled[1] * limit - 1.0) > 1e-6:
            return Miss(f"the scale {scaled[1]:g} does not bring the limit {limit:g} to 1", 3)
        if not view.only_used_by(clip.outputs[0], node):
            return Miss("the Clip has other readers", 4)
        if view.dtype(source) not in _FLOATS:
            return Miss("HardSigmoid is for floating point", 5)
        return {"node": node, "nodes": nodes, "source": source, "alpha": 1.0 / limit, "beta": shift / limit}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        attributes = {"alpha": bindings["alpha"], "beta": bindings["beta"]}
        new = view.node("HardSigmoid", [bindings["source"]], attributes, like=node.outputs[0])
        return Replacement([node, *bindings["nodes"]], {node.outputs[0]: new.outputs[0]}, [new])


class FuseScaledClip(Rule):
    """x · Clip(x + b; 0, m) / m → x · HardSigmoid(x): the hard swish of Paddle's and PyTorch's exporters."""

    name = "fuse-hardswish-arithmetic"
    anchors = ("Mul", "Div")
    after = ("Mul",)
    opset = 6
    algebra = "(y · clip(x + b, 0, m)) / m = y · HardSigmoid(x; 1/m, b/m)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        scaled = _scaling(view, node)
        if scaled is None:
            return Miss("it does not scale by a constant")
        product = view.producer(scaled[0], "Mul")
        if product is None:
            return Miss("what it scales is no product", 1)
        if not view.only_used_by(product.outputs[0], node):
            return Miss("the product has other readers", 2)
        for index in (0, 1):
            clip = view.producer(product.inputs[index], "Clip")
            read = None if clip is None else _shifted_clip(view, clip)
            if clip is None or read is None:
                continue
            source, shift, limit, nodes = read
            if abs(scaled[1] * limit - 1.0) > 1e-6:
                return Miss(f"the scale {scaled[1]:g} does not bring the limit {limit:g} to 1", 4)
            if not view.only_used_by(clip.outputs[0], product):
                return Miss("the Clip has other readers", 4)
            if view.dtype(source) not in _FLOATS:
                return Miss("HardSigmoid is for floating point", 5)
            return {"node": node, "nodes": [product, *nodes], "source": source, "other": product.inputs[1 - index],
                    "alpha": 1.0 / limit, "beta": shift / limit}  # fmt: skip
        return Miss("neither factor is clip(x + b, 0, m)", 3)

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        attributes = {"alpha": bindings["alpha"], "beta": bindings["beta"]}
        gate = view.node("HardSigmoid", [bindings["source"]], attributes, like=bindings["nodes"][1].outputs[0])
        new = view.node("Mul", [bindings["other"], gate.outputs[0]], like=node.outputs[0])
        return Replacement([node, *bindings["nodes"]], {node.outputs[0]: new.outputs[0]}, [gate, new])


class FuseHardSwish(Rule):
    """x · HardSigmoid(x; 1/6, 1/2) → HardSwish."""

    name = "fuse-hardswish"
    anchors = ("Mul",)
    after = ("HardSigmoid",)
    opset = 14
    algebra = "x · HardSigmoid(x; 1/6, 1/2) = HardSwish(x)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        for index in (0, 1):
            gate = view.producer(node.inputs[index], "HardSigmoid")
            if gate is None:
                continue
            if gate.inputs[0] is not node.inputs[1 - index]:
                return Miss("it gates another value than its own", 1)
            alpha, beta = real(gate, "alpha", 0.2), real(gate, "beta", 0.5)
            if abs(alpha - 1 / 6) > 1e-6 or abs(beta - 0.5) > 1e-6:
                return Miss(f"α = {alpha:g} and β = {beta:g} are not 1/6 and 1/2", 2)
            if not view.only_used_by(gate.outputs[0], node):
                return Miss("the HardSigmoid has other readers", 3)
            return {"node": node, "gate": gate}
        return Miss("neither factor is a HardSigmoid")

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, gate = bindings["node"], bindings["gate"]
        new = view.node("HardSwish", [gate.inputs[0]], like=node.outputs[0])
        return Replacement([node, gate], {node.outputs[0]: new.outputs[0]}, [new])


class MergeClips(Rule):
    """Two limits in a row → one Clip (or Relu)."""

    name = "merge-clips"
    anchors = ("Clip", "Relu")
    after = ("Clip", "Relu")
    opset = 11
    algebra = "clip(clip(x, a, b), c, d) = clip(x, max(a, c), min(max(b, c), d)) for overlapping intervals"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        inner = view.producer(node.inputs[0], "Clip", "Relu")
        if inner is None or (node.op_type == "Relu" and inner.op_type == "Relu"):
            return Miss("its input is not limited")
        outer_bounds, inner_bounds = clip_bounds(view, node), clip_bounds(view, inner)
        if outer_bounds is None or inner_bounds is None:
            return Miss("a limit is not constant", 1)
        if not view.only_used_by(inner.outputs[0], node):
            return Miss("the inner value has other readers", 2)
        low, high = max(outer_bounds[0], inner_bounds[0]), min(outer_bounds[1], inner_bounds[1])
        if low > high:
            return Miss("the intervals do not overlap", 2)
        if view.dtype(inner.inputs[0]) not in _FLOATS:
            return Miss("the element type is not known to be floating point", 3)
        return {"node": node, "inner": inner, "low": low, "high": high}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, inner, low, high = (bindings[key] for key in ("node", "inner", "low", "high"))
        output, source = node.outputs[0], inner.inputs[0]
        if low == 0 and high == math.inf:
            new = view.node("Relu", [source], like=output)
            return Replacement([node, inner], {output: new.outputs[0]}, [new])
        dtype = view.dtype(source)
        assert dtype is not None
        limits: list[ir.Value | None] = [
            None if math.isinf(limit) else view.initializer(f"{output.name}_{name}", np.array(limit, dtype.numpy()))
            for name, limit in (("min", low), ("max", high))
        ]
        new = view.node("Clip", [source, *limits], like=output)
        return Replacement([node, inner], {output: new.outputs[0]}, [new], [v for v in limits if v is not None])


class FuseGelu(Rule):
    """x · (1 + erf(x / √2)) / 2 → Gelu, in whichever order the factors stand."""

    name = "fuse-gelu"
    anchors = ("Mul",)
    after = ("Mul", "Add")
    opset = 20
    algebra = "x · (erf(x / √2) + 1) · ½ = Gelu(x)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        factors, scale, nodes = _product(view, node)
        gate = next((factor for factor in factors if view.producer(factor, "Add")), None)
        if gate is None or len(factors) != 2:
            return Miss("it is no product of a value and a sum")
        source = factors[1 - factors.index(gate)]
        add = view.producer(gate, "Add")
        assert add is not None
        operand = other_operand(view, add)
        if operand is None or operand[1] != 1.0:
            return Miss("the sum is not 1 + …", 1)
        erf = view.producer(operand[0], "Erf")
        if erf is None:
            return Miss("it adds 1 to something other than erf", 2)
        inner = view.producer(erf.inputs[0], "Div", "Mul")
        scaled = None if inner is None else _scaling(view, inner)
        if inner is None or scaled is None or scaled[0] is not source:
            return Miss("erf is not of the value it multiplies", 3)
        if abs(scaled[1] - math.sqrt(0.5)) > 1e-5 or abs(scale - 0.5) > 1e-6:
            return Miss(f"the constants {scaled[1]:g} and {scale:g} are not 1/√2 and 1/2", 4)
        chain = [*nodes, add, erf, inner]
        for member in chain[1:]:
            if view.only_user(member.outputs[0]) is None:
                return Miss(f"`{member.name}` has other readers", 5)
        return {"node": node, "nodes": chain, "source": source}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        new = view.node("Gelu", [bindings["source"]], like=node.outputs[0])
        return Replacement(bindings["nodes"], {node.outputs[0]: new.outputs[0]}, [new])


def _product(view: View, node: ir.Node) -> tuple[list[ir.Value], float, list[ir.Node]]:
    """Read nested multiplications as (computed factors, product of the scalar ones, the Mul nodes, outermost first)."""
    factors: list[ir.Value] = []
    scale, nodes = 1.0, [node]
    for value in node.inputs:
        scalar = view.scalar(value)
        inner = view.producer(value, "Mul")
        if scalar is not None:
            scale *= scalar
        elif value is not None and inner is not None and view.only_used_by(value, node):
            deeper, factor, more = _product(view, inner)
            factors += deeper
            scale *= factor
            nodes += more
        elif value is not None:
            factors.append(value)
    return factors, scale, nodes
