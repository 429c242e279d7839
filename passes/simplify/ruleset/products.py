"""Convolutions and matrix products that take what stands before or after them as their own operand."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import onnx_ir as ir
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View
from mopt.rewrite.attributes import integers, real, text
from mopt.rewrite.symbolic_spatial import pads_of


class FoldPad(Rule):
    """Zero padding before a convolution → its own padding."""

    name = "fold-pad"
    anchors = ("Conv",)
    after = ("Pad",)
    algebra = "Conv(Pad(x; p)) = Conv(x; pads + p)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
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
    after = ("MatMul",)
    opset = 7
    algebra = "A B + c = Gemm(A, B, c)"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        index = next((i for i, value in enumerate(node.inputs) if view.producer(value, "MatMul")), None)
        if index is None:
            return Miss("neither operand is a MatMul")
        product = view.producer(node.inputs[index], "MatMul")
        assert product is not None
        ranks = [view.rank(value) for value in product.inputs]
        if ranks != [2, 2]:
            return Miss(f"its operands have ranks {ranks[0]} and {ranks[1]}, Gemm takes 2", 1)
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
