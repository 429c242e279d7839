"""Rounding to a quantised type in a way that gradients pass.

An integer tensor has no gradient, so a quantised value that only goes to operators that turn it back into a real
number is handed on as a float tensor of the same (whole) numbers: a fake quantiser. Where anything else reads the
value it is really of its integer type, and the gradient ends there.
"""

from __future__ import annotations

from typing import Any, Final

import onnx_ir
import torch
from mopt.runtime.trainable.element_types import INTEGER_LIMITS, TORCH_TYPES, to_float4
from mopt.runtime.trainable.operator import Call
from torch import Tensor

_TAKES_WHOLE_FLOATS: Final[dict[str, frozenset[int]]] = {
    "DequantizeLinear": frozenset({0}),
    "MatMulInteger": frozenset({0, 1}),
    "ConvInteger": frozenset({0, 1}),
    "QLinearMatMul": frozenset({0, 3}),
    "QLinearConv": frozenset({0, 3}),
}
_REAL: Final = frozenset({onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE})
_LIMITS: Final = {TORCH_TYPES[element]: limits for element, limits in sorted(INTEGER_LIMITS.items(), reverse=True)}


def as_whole_floats(call: Call, output: int = 0) -> bool:
    """Tell whether an output of quantised numbers may be a float tensor: all who read it take that."""
    value = call.node.outputs[output]
    if value.is_graph_output() or not value.uses():
        return False
    return all(_takes(use.node, use.idx) for use in value.uses())


def _takes(node: onnx_ir.Node, index: int) -> bool:
    if node.op_type == "Cast":
        to = node.attributes.get("to")
        return to is not None and to.value in _REAL
    return index in _TAKES_WHOLE_FLOATS.get(node.op_type, frozenset())


class _Round(torch.autograd.Function):
    """clamp(round(x / scale) + zero) with the gradient of clamp(x / scale + zero): straight through the rounding.

    The gradient with respect to the scale, through a following dequantiser, is that of LSQ (Esser et al., 2020).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor | None, low: float, high: float) -> Tensor:
        level = x / scale
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            moved = level if zero is None else level + zero
            # A level up to half a step outside still rounds onto the grid's end.
            inside = (moved >= low - 0.5) & (moved <= high + 0.5)
            ctx.save_for_backward(level if ctx.needs_input_grad[1] else None, scale, inside)
            rounded = level.round()
        else:
            rounded = level.round_()
        return (rounded if zero is None else rounded.add_(zero)).clamp_(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        level, scale, inside = ctx.saved_tensors
        kept = gradients[0] * inside / scale
        to_scale = None
        if level is not None:
            to_scale = -(kept * level)
            lead = to_scale.dim() - scale.dim()
            to_scale = to_scale.sum(dim=tuple(range(lead))) if lead else to_scale
            spread = tuple(axis for axis, size in enumerate(scale.shape) if size == 1 and to_scale.shape[axis] != 1)
            to_scale = to_scale.sum(dim=spread, keepdim=True) if spread else to_scale
        return (kept if ctx.needs_input_grad[0] else None), to_scale, None, None, None


class Rounding:
    """Rounds real numbers to one output of a node.

    Args:
        call: the node.
        zero: position of the input whose type the output has (the zero point).
        output: position of the output.
        element: the output's type where something else says it.
    """

    def __init__(self, call: Call, zero: int | None, output: int = 0, element: onnx_ir.DataType | None = None) -> None:
        self.whole_floats = as_whole_floats(call, output)
        self._saturate = bool(call.attribute("saturate", 1))
        if element is None and zero is not None and call.has(zero):
            known = call.constant(zero)
            declared = call.node.inputs[zero]
            if known is not None:
                element = onnx_ir.DataType.from_numpy(known.dtype)
            elif declared is not None:
                element = declared.dtype
            self._element = element
        else:
            self._element = element or onnx_ir.DataType.UINT8

    def __call__(self, x: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """Return x / scale + zero point, rounded and saturated; scale and zero point must broadcast against x."""
        if self._element is not None:
            held, limits = TORCH_TYPES[self._element], INTEGER_LIMITS.get(self._element)
        else:
            assert zero is not None
            held, limits = zero.dtype, _LIMITS.get(zero.dtype)
        if limits is None:
            return self._to_small_float(x / scale, held)
        moved = None if zero is None else zero.to(x.dtype)
        rounded: Tensor = _Round.apply(x, scale, moved, float(limits[0]), float(limits[1]))
        return rounded if self.whole_floats else rounded.to(held)

    def _to_small_float(self, level: Tensor, held: torch.dtype) -> Tensor:
        if held == torch.float32:
            rounded = to_float4(level.float())
        else:
            if self._saturate:
                greatest = torch.finfo(held).max
                level = level.clamp(-greatest, greatest)
            rounded = level.to(held)
        if not self.whole_floats:
            return rounded
        return level + (rounded.to(level.dtype) - level).detach()


def dynamic_levels(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantise a tensor to 256 levels over its own range, widened to hold 0.

    Returns:
        The levels as whole floats, through which gradients pass; the scale; the zero point as an unsigned byte.
    """
    with torch.no_grad():
        least, greatest = torch.aminmax(x)
        least, greatest = least.clamp(max=0), greatest.clamp(min=0)
        scale = (greatest - least) / 255
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = (-least / scale).round().clamp(0, 255)
    return _Round.apply(x, scale, zero, 0.0, 255.0), scale, zero.to(torch.uint8)
