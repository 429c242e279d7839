"""Layer normalisation and softmax that an exporter spelled out, as the operator they are."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.passes.simplify.ruleset.activations import other_operand
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integer
from mopt.rewrite.symbolic_layout import axes_of


class FuseLayerNorm(Rule):
    """(x - mean) / sqrt(var + ε) · γ + β over the last axis → LayerNormalization."""

    name = "fuse-layernorm"
    anchors = ("Add",)
    after = ("Mul",)
    opset = 17
    algebra = "γ (x - E[x]) / √(E[(x - E[x])²] + ε) + β = LayerNormalization(x, γ, β; ε)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        scaled = next((view.producer(value, "Mul") for value in node.inputs if view.producer(value, "Mul")), None)
        if scaled is None:
            return Miss("it does not add to a product")
        quotient = next((view.producer(value, "Div") for value in scaled.inputs if view.producer(value, "Div")), None)
        if quotient is None:
            return Miss("the product has no quotient as a factor", 1)
        centred, root = view.producer(quotient.inputs[0], "Sub"), view.producer(quotient.inputs[1], "Sqrt")
        if centred is None or root is None:
            return Miss("the quotient is not (x - mean) / sqrt(…)", 2)
        shifted = view.producer(root.inputs[0], "Add")
        epsilon = None if shifted is None else other_operand(view, shifted)
        variance = None if epsilon is None else view.producer(epsilon[0], "ReduceMean")
        mean = view.producer(centred.inputs[1], "ReduceMean")
        if shifted is None or epsilon is None or variance is None or mean is None:
            return Miss("under the root stands no mean plus a constant", 3)
        square = view.producer(variance.inputs[0], "Pow", "Mul")
        if square is None or not _is_square(view, square, centred.outputs[0]):
            return Miss("the mean is not of (x - mean)²", 4)
        source = centred.inputs[0]
        rank = view.rank(source)
        if mean.inputs[0] is not source or rank is None:
            return Miss("the mean is not of the same value, or its rank is unknown", 5)
        for reduction in (mean, variance):
            axes = axes_of(view.symbolic, reduction)
            if axes is None or [axis % rank for axis in axes] != [rank - 1] or not integer(reduction, "keepdims", 1):
                return Miss("it does not normalise over the last axis alone", 6)
        weights = []
        for product, factor in ((scaled, quotient), (node, scaled)):
            value = next((v for v in product.inputs if v is not factor.outputs[0]), None)
            array = view.constant(value)
            shape = view.shape(source)
            if array is None or array.ndim != 1 or shape is None or array.shape[0] != shape[-1]:
                return Miss("scale or bias is no constant vector of the last axis's length", 7)
            weights.append(value)
        nodes = [node, scaled, quotient, root, shifted, variance, square, centred, mean]
        allowed = set(nodes)
        for member in nodes[1:]:
            if any(use.node not in allowed for use in member.outputs[0].uses()) or member.outputs[0].is_graph_output():
                return Miss(f"`{member.name}` has other readers", 8)
        return {"nodes": nodes, "source": source, "weights": weights, "epsilon": epsilon[1]}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        nodes, output = bindings["nodes"], bindings["nodes"][0].outputs[0]
        attributes = {"axis": -1, "epsilon": bindings["epsilon"]}
        new = view.node("LayerNormalization", [bindings["source"], *bindings["weights"]], attributes, like=output)
        return Replacement(nodes, {output: new.outputs[0]}, [new])


def _is_square(view: View, node: ir.Node, value: ir.Value) -> bool:
    if node.op_type == "Mul":
        return node.inputs[0] is value and node.inputs[1] is value
    return node.inputs[0] is value and view.scalar(node.inputs[1]) == 2.0


class FuseSoftmax(Rule):
    """exp(x) / Σ exp(x) → Softmax."""

    name = "fuse-softmax"
    anchors = ("Div",)
    after = ("Exp",)
    opset = 13
    algebra = "exp(x) / Σ exp(x) = Softmax(x)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        exponent, total = view.producer(node.inputs[0], "Exp"), view.producer(node.inputs[1], "ReduceSum")
        if exponent is None or total is None:
            return Miss("it does not divide exp(…) by a sum")
        if total.inputs[0] is not node.inputs[0]:
            return Miss("the sum is of another value", 1)
        axes, rank = axes_of(view.symbolic, total), view.rank(node.inputs[0])
        if axes is None or len(axes) != 1 or not integer(total, "keepdims", 1) or rank is None:
            return Miss("the sum is not along one kept axis", 2)
        readers = {use.node for use in exponent.outputs[0].uses()}
        if readers != {node, total} or not view.only_used_by(total.outputs[0], node):
            return Miss("exp(…) or the sum has other readers", 3)
        return {"nodes": [node, total, exponent], "source": exponent.inputs[0], "axis": axes[0] % rank}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        nodes, output = bindings["nodes"], bindings["nodes"][0].outputs[0]
        new = view.node("Softmax", [bindings["source"]], {"axis": bindings["axis"]}, like=output)
        return Replacement(nodes, {output: new.outputs[0]}, [new])


class StaticResize(Rule):
    """A Resize to computed sizes that are whole multiples of the input's → constant scales."""

    name = "static-resize"
    anchors = ("Resize",)
    opset = 11
    algebra = "Resize(x; sizes = [n, c, 2h, 2w]) = Resize(x; scales = [1, 1, 2, 2])"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        from mopt.rewrite.symbol import exact_quotient

        given = list(node.inputs)
        if "axes" in node.attributes:
            return Miss("it names axes")
        if len(given) < 4 or given[3] is None:
            if len(given) > 2 and given[2] is not None and view.constant(given[2]) is None:
                return Miss("its scales are computed")
            return Miss("it has no sizes")
        if view.constant(given[3]) is not None:
            return Miss("its sizes are constant", 1)
        before, sizes = view.shape(given[0]), view.content(given[3])
        if before is None or sizes is None or len(before) != sizes.size:
            return Miss("the sizes are not known", 1)
        scales = [exact_quotient(after, size) for after, size in zip(sizes.flat, before, strict=True)]
        if not all(isinstance(scale, int) and scale > 0 for scale in scales):
            return Miss(f"{list(sizes.flat)} are no whole multiples of {list(before)}", 2)
        return {"node": node, "scales": scales}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        scales = view.initializer(f"{node.outputs[0].name}_scales", np.array(bindings["scales"], np.float32))
        region = node.inputs[1]
        if region is None and view.opset < 13:
            # Below opset 13 the region of interest is no optional input.
            region = view.initializer(f"{node.outputs[0].name}_roi", np.zeros(0, np.float32))
        new = view.copy(node, [node.inputs[0], region, scales])
        constants = [value for value in (scales, region) if value is not None and value is not node.inputs[1]]
        return Replacement([node], {node.outputs[0]: new.outputs[0]}, [new], constants)
