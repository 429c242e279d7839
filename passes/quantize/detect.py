"""Finding what is quantised already."""

from __future__ import annotations

from typing import Final

import onnx_ir as ir
from mopt.ir import Module

QUANTIZED: Final = frozenset(
    {"ConvInteger", "DequantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeLinear", "DynamicQuantizeMatMul",
     "GatherBlockQuantized", "MatMulBnb4", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QAttention",
     "QEmbedLayerNormalization", "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv",
     "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearMatMul", "QLinearMul", "QLinearSigmoid",
     "QLinearSoftmax", "QLinearWhere", "QuantizeLinear"}
)  # fmt: skip
"""Operators that only a quantised graph has, of the ONNX standard and of onnxruntime."""


def first_quantized(module: Module) -> ir.Node | None:
    """Return the first node of a quantised operator, or None where the graph is all float."""
    return next((node for node in module.nodes(functions=True) if node.op_type in QUANTIZED), None)
