"""onnxruntime's operators on packed weights and on activations quantised as they come (domain com.microsoft)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir
import torch
from mopt.runtime.trainable.operator import Call, Compute, UnsupportedOperatorError, operator
from mopt.runtime.trainable.operators.integer_arithmetic import integer_product
from mopt.runtime.trainable.operators.recurrent import recurrence_of
from mopt.runtime.trainable.rounding import dynamic_levels
from torch import Tensor

DOMAIN: Final = "com.microsoft"


def _unpacked(packed: Any, bits: int) -> Tensor:
    """Numbers of 2, 4 or 8 bits out of bytes, lowest bits first, along the last axis."""
    given = torch.from_numpy(np.array(packed)) if isinstance(packed, np.ndarray) else packed
    if bits == 8:
        return given
    shifts = torch.arange(0, 8, bits, device=given.device, dtype=torch.uint8)
    return ((given.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).flatten(-2)


@operator("MatMulNBits", domain=DOMAIN)
def prepare_matmul_nbits(call: Call) -> Compute:
    """A product with a matrix of 2, 4 or 8 bits in blocks; gradients go to the activations, scales and bias.

    Computed in the activations' type, whatever the node's `accuracy_level`.
    """
    if call.attribute("weight_prepacked", 0) or call.has(4):
        raise UnsupportedOperatorError("weights packed for one processor, or with blocks in another order")
    bits, inner, outer = call.attribute("bits", 4), call.attribute("K"), call.attribute("N")
    block = call.attribute("block_size")
    blocks = -(-inner // block)
    known = call.constant(1)
    levels = None if known is None else _unpacked(known, bits).reshape(outer, blocks, -1)

    def compute(
        a: Tensor, b: Tensor, scales: Tensor, zeros: Any = None, _: Any = None, bias: Tensor | None = None
    ) -> Tensor:
        stored = _unpacked(b, bits).reshape(outer, blocks, -1) if levels is None else levels.to(a.device)
        if zeros is None:
            shift: Any = 1 << (bits - 1)
        elif zeros.dtype == torch.uint8:
            shift = _unpacked(zeros.reshape(outer, -1), bits)[:, :blocks].unsqueeze(-1).to(a.dtype)
        else:
            shift = zeros.reshape(outer, blocks, 1)
        weight = (stored.to(a.dtype) - shift) * scales.reshape(outer, blocks, 1).to(a.dtype)
        return torch.nn.functional.linear(a, weight.flatten(1)[:, :inner], bias)

    return compute


@operator("GatherBlockQuantized", domain=DOMAIN)
def prepare_gather_blocks(call: Call) -> Compute:
    """Rows of a table of 2, 4 or 8 bits in blocks along an axis."""
    gathered, along = call.attribute("gather_axis", 0), call.attribute("quantize_axis", 1)
    block, bits = call.attribute("block_size", 128), call.attribute("bits", 4)

    data = call.node.inputs[0]
    if data is None or data.dtype is None:
        raise UnsupportedOperatorError("a table whose element type is not known")
    # Bytes hold several small numbers; 4-bit types are already unpacked, one in a byte of torch's.
    packed = data.dtype == onnx_ir.DataType.UINT8 and bits < 8
    middle = float(1 << (bits - 1)) if data.dtype == onnx_ir.DataType.UINT8 else 0.0

    def compute(data: Tensor, indices: Tensor, scales: Tensor, zeros: Tensor | None = None) -> Tensor:
        levels = _unpacked(data, bits) if packed else data
        at = indices.long().reshape(-1)
        count = levels.shape[along]

        def wide(factor: Tensor) -> Tensor:
            return factor.repeat_interleave(block, along).narrow(along, 0, count).index_select(gathered, at)

        if zeros is not None:
            shift: Any = wide(_unpacked(zeros, bits) if packed else zeros).to(scales.dtype)
        else:
            shift = middle
        rows = (levels.index_select(gathered, at).to(scales.dtype) - shift) * wide(scales)
        return rows.reshape(*levels.shape[:gathered], *indices.shape, *levels.shape[gathered + 1 :])

    return compute


@operator("DynamicQuantizeMatMul", domain=DOMAIN)
def prepare_dynamic_matmul(call: Call) -> Compute:
    """Activations to bytes over their own range, an exact product of integers, and back to floats."""

    def compute(a: Tensor, b: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        levels, step, shift = dynamic_levels(a)
        result = (integer_product(levels, b, shift, zero) * (step.double() * scale.double())).to(a.dtype)
        return result if bias is None else result + bias

    return compute


@operator("MatMulIntegerToFloat", domain=DOMAIN)
def prepare_matmul_to_float(call: Call) -> Compute:
    """An exact product of integers, given as floats."""

    def compute(
        a: Tensor,
        b: Tensor,
        a_scale: Tensor,
        b_scale: Tensor,
        a_zero: Tensor | None = None,
        b_zero: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        product = integer_product(a, b, a_zero, b_zero)
        result = (product * (a_scale.double() * b_scale.double())).to(a_scale.dtype)
        return result if bias is None else result + bias

    return compute


@operator("DynamicQuantizeLSTM", domain=DOMAIN)
def prepare_dynamic_lstm(call: Call) -> Compute:
    """An LSTM whose weights are bytes.

    onnxruntime also rounds the input and the hidden state to 256 levels at every step; here they stay floats, so that
    results differ by that rounding.
    """
    recur = recurrence_of(call, "LSTM")

    def compute(
        x: Tensor,
        w: Tensor,
        r: Tensor,
        bias: Any,
        lengths: Any,
        h: Any,
        c: Any,
        p: Any,
        w_scale: Tensor,
        w_zero: Tensor,
        r_scale: Tensor,
        r_zero: Tensor,
    ) -> Any:
        wide = [_matrix(*parts) for parts in ((w, w_scale, w_zero), (r, r_scale, r_zero))]
        return recur(x, *wide, bias, lengths, h, c, p)

    return compute


def _matrix(levels: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """[D, I, 4H] bytes, one scale or one for each column → [D, 4H, I]."""
    shape = (levels.shape[0], 1, -1)
    real = (levels.to(scale.dtype) - zero.reshape(shape).to(scale.dtype)) * scale.reshape(shape)
    return real.transpose(1, 2)
