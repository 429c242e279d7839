"""Asymmetric activations on symmetric grids: Q/DQ pairs that TensorRT's kernels are fused from, the others dropped.

A byte q on a grid (s, z) stands for s (q - z), from `low` to `high`. The symmetric int8 grid that holds the same
range has the scale max(-low / 128, high / 127): its steps are at most 255/127 as wide (a range that starts at zero),
and equal where the range was symmetric. Rounding to it is all that changes, and only where a convolution or product
reads the bytes; other pairs, which onnxruntime wants around whatever it runs on bytes, would be a rounding for nothing.

What the bytes' ends did, the graph must do: quantising cut a value at `low` and `high`. The cut at zero is kept as a
Relu where no activation function stands there already (onnxruntime's quantiser removes it), the rest where bytes are
read on another grid than they were written on, as `quantize.static` does for hard swishes: reading (s', z') what was
written on (s, z) is s'/s · r + s' (z - z') of the real r, and a Clip of bytes is one of reals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from mopt.passes.convert.tensorrt_graph import Lowering, parameter, refusal
from mopt.rewrite.constants import constant_array

_NEVER_NEGATIVE: Final = frozenset({"Relu", "Sigmoid", "Softmax", "HardSigmoid", "Abs", "Exp", "Sqrt", "Softplus"})
_PASSING: Final = frozenset(
    {"AveragePool", "Concat", "Dropout", "Flatten", "Gather", "GlobalAveragePool", "Identity", "MaxPool", "Reshape",
     "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)  # fmt: skip
"""Operators whose result lies within the range of what they read, and of which TensorRT runs most on bytes."""
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FULL: Final = 127
KEPT: Final = "activations on symmetric int8 grids"
DROPPED: Final = "Q/DQ pairs that feed no convolution or product dropped"


@dataclass(frozen=True)
class _Grid:
    """Bytes from `least` to `most` that stand for scale · (q - zero)."""

    scale: float
    zero: int
    least: int
    most: int

    def real(self, byte: float) -> float:
        return self.scale * (byte - self.zero)


def lower(editor: Lowering, node: ir.Node) -> None:
    """Lower one `QuantizeLinear` with what reads it, where TensorRT would refuse it.

    Raises:
        PassError: its scale or zero point is computed, lies along an axis, or is not of 8 bits; or something other
            than a `DequantizeLinear` or a `Clip` reads its bytes.
    """
    grid = _grid(node)
    if grid is None:
        return
    source, q = node.inputs[0], node.outputs[0]
    assert source is not None
    if q.is_graph_output():
        raise refusal(node, "its bytes are an output of the model")
    low, high = grid.real(grid.least), grid.real(grid.most)
    real = source
    if low == 0 and not _never_negative(source):
        real = editor.insert(node, "Relu", [source], label=f"{source.name}_positive", shape=source.shape)[0]
    if _feeds_a_product(q):
        scale = np.float32(max(-low / (_FULL + 1), high / _FULL))  # bytes reach from -128 to 127
        grids = [
            editor.constant(np.array(scale, np.float32), "scale"),
            editor.constant(np.zeros((), np.int8), "zero_point"),
        ]
        (q8,) = editor.insert(
            node, "QuantizeLinear", [real, *grids], label=f"{q.name}_int8", dtypes=(ir.DataType.INT8,), shape=q.shape
        )
        (real,) = editor.insert(node, "DequantizeLinear", [q8, *grids], label=f"{q.name}_real", shape=q.shape)
        editor.count(KEPT)
    else:
        editor.count(DROPPED)
    _read(editor, node, q, real, grid, bounded=False)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _grid(node: ir.Node) -> _Grid | None:
    """Return the grid of a node that has to be lowered; None for one that TensorRT takes."""
    scale, zero = parameter(node, 1, "scale"), parameter(node, 2, "zero point")
    assert scale is not None
    kind = node.outputs[0].dtype if zero is None else ir.DataType.from_numpy(zero.dtype)
    if kind not in (None, ir.DataType.UINT8, ir.DataType.INT8):
        if kind in (ir.DataType.FLOAT8E4M3FN, ir.DataType.INT4, ir.DataType.FLOAT4E2M1):
            return None
        raise refusal(node, f"activations are {kind.name.lower()}; it takes int8")
    signed = kind == ir.DataType.INT8
    if signed and (zero is None or not zero.any()):
        return None
    if scale.size != 1:
        raise refusal(node, "its grids along an axis are not symmetric int8")
    byte = 0 if zero is None else int(zero.reshape(-1)[0])
    least = -128 if signed else 0
    return _Grid(float(scale.reshape(-1)[0]), byte, least, least + 255)


def _read(editor: Lowering, made: ir.Node, q: ir.Value, real: ir.Value, grid: _Grid, *, bounded: bool) -> None:
    """Let every reader of bytes `q` read the real value instead."""
    held: ir.Value | None = real if bounded else None
    for usage in list(q.uses()):
        reader = usage.node
        if reader is made:
            continue
        result = reader.outputs[0]
        if reader.op_type == "Clip" and usage.idx == 0:
            ends = [parameter(reader, index, "bound") for index in (1, 2)]
            low = grid.least if ends[0] is None else int(ends[0].reshape(-1)[0])
            high = grid.most if ends[1] is None else int(ends[1].reshape(-1)[0])
            cut = _clip(editor, reader, real, grid.real(max(low, grid.least)), grid.real(min(high, grid.most)))
            _read(editor, made, result, cut, grid, bounded=True)
            assert reader.graph is not None
            reader.graph.remove(reader, safe=True)
            continue
        if reader.op_type != "DequantizeLinear" or usage.idx != 0:
            raise refusal(reader, "it reads the bytes of an asymmetric grid")
        scale, zero = parameter(reader, 1, "scale"), parameter(reader, 2, "zero point")
        assert scale is not None
        if scale.size != 1:
            raise refusal(reader, "it reads the bytes of one grid on several")
        factor = float(scale.reshape(-1)[0]) / grid.scale
        offset = float(scale.reshape(-1)[0]) * (grid.zero - (0 if zero is None else int(zero.reshape(-1)[0])))
        value = real
        if abs(factor - 1) > 1e-6 or offset != 0:
            if held is None:
                held = _clip(editor, reader, real, grid.real(grid.least), grid.real(grid.most))
            value = _affine(editor, reader, held, factor, offset)
        editor.redirect(reader, value)


def _clip(editor: Lowering, before: ir.Node, real: ir.Value, low: float, high: float) -> ir.Value:
    ends = [editor.constant(np.array(end, np.float32), "end") for end in (low, high)]
    return editor.insert(before, "Clip", [real, *ends], label=f"{real.name}_cut", shape=real.shape)[0]


def _affine(editor: Lowering, before: ir.Node, real: ir.Value, factor: float, offset: float) -> ir.Value:
    if abs(factor - 1) > 1e-6:
        by = editor.constant(np.array(factor, np.float32), "factor")
        (real,) = editor.insert(before, "Mul", [real, by], label=f"{real.name}_scaled", shape=real.shape)
    if offset != 0:
        by = editor.constant(np.array(offset, np.float32), "offset")
        (real,) = editor.insert(before, "Add", [real, by], label=f"{real.name}_shifted", shape=real.shape)
    return real


def _never_negative(value: ir.Value) -> bool:
    """Say whether an operator that gives no negative number made a value, or only moved what one made."""
    producer = value.producer()
    while producer is not None and producer.op_type in _PASSING and producer.op_type != "Concat":
        value = producer.inputs[0]  # type: ignore[assignment]
        producer = value.producer()
    if producer is None:
        return False
    if producer.op_type == "Clip":
        low = constant_array(producer.inputs[1]) if len(producer.inputs) > 1 else None
        return low is not None and float(low.reshape(-1)[0]) >= 0
    return producer.op_type in _NEVER_NEGATIVE


def _feeds_a_product(q: ir.Value) -> bool:
    """Say whether a convolution or product reads a value's bytes as reals, be it behind what only moves them."""
    waiting, seen = [q], {q}
    while waiting:
        for usage in waiting.pop().uses():
            node = usage.node
            if node.op_type in _WEIGHTED and usage.idx == 0:
                return True
            if node.op_type == "DequantizeLinear" or node.op_type in _PASSING:
                fresh = [output for output in node.outputs if output not in seen]
                seen.update(fresh)
                waiting += fresh
    return False
