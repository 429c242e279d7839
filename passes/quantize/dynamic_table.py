"""What an operator costs in float and in its dynamically quantised form, from a table: the same on every machine.

A time is a sum over multiplications, elements read, elements written, elements of the weight, and the call itself.
The factors were fitted (least squares of relative errors, none below zero) to 45 operators of usual sizes, measured
with onnxruntime 1.31 on one thread of a processor with AVX-512 VNNI. On processors without integer dot products int8
gains less; `select=measured` looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Final

import onnx_ir as ir
from mopt.passes.quantize.dynamic_operators import constant

_COSTS: Final[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "MatMul": ((0.0075, 0.026, 0.011, 0.031, 3600.0), (0.0047, 0.041, 0.187, 0.011, 4200.0)),
    "Conv": ((0.0080, 0.068, 0.113, 0.047, 0.0), (0.0060, 0.0, 0.237, 0.109, 11800.0)),
    "LSTM": ((0.0160, 0.0, 3.27, 0.025, 0.0), (0.0064, 0.0, 7.28, 0.0, 9700.0)),
}
"""(float, integer) nanoseconds for each multiplication, element read, written, of the weight, and call."""


def ratio(node: ir.Node, read: Sequence[int], written: Sequence[int]) -> float:
    """Return the time of the quantised form as a share of the float one's.

    Args:
        node: `MatMul`, `Gemm`, `Conv` or `LSTM` with constant weights.
        read, written: the shapes of its first input and output.
    """
    weights = [constant(node.inputs[index]) for index in ((1, 2) if node.op_type == "LSTM" else (1,))]
    size = sum(array.size for array in weights if array is not None)
    if node.op_type == "Conv":
        first = weights[0]
        assert first is not None
        work = prod(written) * first.size // first.shape[0]
    elif node.op_type == "LSTM":
        work = read[0] * read[1] * size  # both gates' products at each step of each sequence
    else:
        first = weights[0]
        assert first is not None
        inner = first.shape[1] if node.attributes.get_int("transB", 0) else first.shape[-2]
        work = prod(written) * inner
    terms = (work, prod(read), prod(written), size, 1)
    real, integer = (
        sum(cost * term for cost, term in zip(costs, terms, strict=True))
        for costs in _COSTS["MatMul" if node.op_type == "Gemm" else node.op_type]
    )
    return float(integer / real)
