"""Multiply-accumulate operations of one node, from the concrete shapes of its inputs and outputs.

Counted are the products of matrices and convolutions (what hardware is rated by): Conv, ConvTranspose, DeformConv,
Gemm, MatMul, recurrent layers, Einsum, attention, and their quantised kin. Elementwise arithmetic, normalisation,
activations, pooling and resizing count nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import onnx_ir as ir

Shape: TypeAlias = tuple[int, ...]
Counter: TypeAlias = Callable[[ir.Node, Sequence[Shape | None], Sequence[Shape | None]], int]


class UnknownSize(Exception):  # noqa: N818  a signal inside the package, not an error anybody sees
    """A shape that the count depends on is not known."""


def count(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    """Return the MACs of one run of a node; 0 for operators that are not counted.

    Args:
        node: the node.
        inputs: shapes of its inputs; None where unknown or absent.
        outputs: shapes of its outputs.

    Raises:
        UnknownSize: a shape that is needed is unknown.
    """
    counter = _COUNTERS.get((node.domain, node.op_type))
    return 0 if counter is None else counter(node, inputs, outputs)


def is_counted(node: ir.Node) -> bool:
    """Say whether a node's operator is one whose MACs are counted."""
    return (node.domain, node.op_type) in _COUNTERS


def _need(shapes: Sequence[Shape | None], index: int) -> Shape:
    shape = shapes[index] if index < len(shapes) else None
    if shape is None:
        raise UnknownSize
    return shape


def _convolution(weight: int) -> Counter:
    def counter(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
        # Each output element sums over C/group channels and the kernel: the weight is [M, C/group, k…].
        return math.prod(_need(outputs, 0)) * math.prod(_need(inputs, weight)[1:])

    return counter


def _transposed(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    # Each input element is spread over M/group channels and the kernel: the weight is [C, M/group, k…].
    return math.prod(_need(inputs, 0)) * math.prod(_need(inputs, 1)[1:])


def _gemm(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    left = _need(inputs, 0)
    inner = left[0] if node.attributes.get_int("transA", 0) else left[1]
    return math.prod(_need(outputs, 0)) * inner


def _matmul(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    left = _need(inputs, 0)
    inner = left[-2] if node.attributes.get_int("transA", 0) else left[-1]
    return math.prod(_need(outputs, 0)) * inner


def _recurrent(gates: int, *, transposed: bool = False) -> Counter:
    def counter(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
        # X is [steps, batch, I] (or batch first: the product is the same), W [directions, gates·H, I].
        steps, batch, features = _need(inputs, 0)
        directions = _need(inputs, 1)[0]
        hidden = _need(inputs, 2)[1] if transposed else _need(inputs, 2)[2]
        return steps * batch * directions * gates * hidden * (features + hidden)

    return counter


def _einsum(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    equation = (node.attributes.get_string("equation") or "").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms):
        shape = list(_need(inputs, index))
        labels = _spelled_out(term, len(shape))
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    # One product over all labels for two operands; each further operand multiplies once more.
    return math.prod(sizes.values()) * (len(terms) - 1)


def _spelled_out(term: str, rank: int) -> list[str]:
    """Return one label for each axis; those of an ellipsis are numbered from the right, as they broadcast."""
    before, dots, after = term.partition("...")
    if not dots:
        labels = list(term)
    else:
        hidden = rank - len(before) - len(after)
        labels = [*before, *(f".{number}" for number in range(hidden, 0, -1)), *after]
    if len(labels) != rank:
        raise UnknownSize
    return labels


def _attention(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    # Opset 23: Q, K, V of [batch, heads, length, size] or [batch, length, heads·size]; past keys are input 4.
    query, key, value = _need(inputs, 0), _need(inputs, 1), _need(inputs, 2)
    past = inputs[4] if len(inputs) > 4 and inputs[4] is not None else None
    earlier = past[2] if past is not None else 0
    if len(query) == 4:
        batch, heads, rows, size = query
        return batch * heads * rows * (key[2] + earlier) * (size + value[3])
    batch, rows, width = query
    heads = node.attributes.get_int("q_num_heads", 0) or 1
    kv_heads = node.attributes.get_int("kv_num_heads", 0) or heads
    return batch * rows * (key[1] + earlier) * (width + heads * (value[2] // kv_heads))


def _fused_attention(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    # com.microsoft Attention: the projections of Q, K, V ([I, 3·H]) and both products.
    batch, rows, width = _need(inputs, 0)
    projected = _need(inputs, 1)[1]
    hidden = projected // 3
    return batch * rows * width * projected + 2 * batch * rows * rows * hidden


def _multi_head_attention(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    batch, rows, width = _need(inputs, 0)[:3]
    key = inputs[1] if len(inputs) > 1 and inputs[1] is not None else _need(inputs, 0)
    return 2 * batch * rows * key[1] * width


def _matmul_nbits(node: ir.Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape | None]) -> int:
    return math.prod(_need(inputs, 0)) * node.attributes.get_int("N", 0)


_MICROSOFT = "com.microsoft"

_COUNTERS: dict[tuple[str, str], Counter] = {
    ("", "Conv"): _convolution(1),
    ("", "ConvInteger"): _convolution(1),
    ("", "DeformConv"): _convolution(1),
    ("", "QLinearConv"): _convolution(3),
    ("", "ConvTranspose"): _transposed,
    ("", "Gemm"): _gemm,
    ("", "MatMul"): _matmul,
    ("", "MatMulInteger"): _matmul,
    ("", "QLinearMatMul"): _matmul,
    ("", "RNN"): _recurrent(1),
    ("", "GRU"): _recurrent(3),
    ("", "LSTM"): _recurrent(4),
    ("", "Einsum"): _einsum,
    ("", "Attention"): _attention,
    (_MICROSOFT, "FusedConv"): _convolution(1),
    (_MICROSOFT, "QLinearConv"): _convolution(3),
    (_MICROSOFT, "FusedGemm"): _gemm,
    (_MICROSOFT, "QGemm"): _gemm,
    (_MICROSOFT, "FusedMatMul"): _matmul,
    (_MICROSOFT, "MatMulIntegerToFloat"): _matmul,
    (_MICROSOFT, "DynamicQuantizeMatMul"): _matmul,
    (_MICROSOFT, "MatMulNBits"): _matmul_nbits,
    (_MICROSOFT, "DynamicQuantizeLSTM"): _recurrent(4, transposed=True),
    (_MICROSOFT, "Attention"): _fused_attention,
    (_MICROSOFT, "QAttention"): _fused_attention,
    (_MICROSOFT, "MultiHeadAttention"): _multi_head_attention,
}
