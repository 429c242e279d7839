"""Convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call, Compute, UnsupportedOperatorError, operator
from torch.nn import functional as F

_CONVOLUTIONS: Final[dict[int, Any]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@operator("Conv")
def conv(call: Call) -> Compute:
    """X [N, C, …], W [M, C / group, …], bias [M]; explicit or automatic padding."""
    kernel, stride, dilation = (call.attribute(name) for name in ("kernel_shape", "strides", "dilations"))
    pads, mode, group = call.attribute("pads"), call.attribute("auto_pad", "NOTSET"), call.attribute("group", 1)
    rank = _rank(call)
    if rank is not None and rank not in _CONVOLUTIONS:
        raise UnsupportedOperatorError(f"a convolution over {rank} axes")
    if rank is None:
        return lambda x, w, b=None: _convolution(x.dim() - 2, stride, dilation, pads, mode, group)(x, w, b)
    del kernel
    return _convolution(rank, stride, dilation, pads, mode, group)


def _rank(call: Call) -> int | None:
    for name, extra in (("kernel_shape", 0), ("strides", 0), ("dilations", 0), ("pads", None)):
        found = call.attribute(name)
        if found is not None:
            return len(found) // 2 if extra is None else len(found)
    weight = call.node.inputs[1]
    return None if weight is None or weight.shape is None else len(weight.shape) - 2


def _convolution(
    rank: int,
    stride: Sequence[int] | None,
    dilation: Sequence[int] | None,
    pads: Sequence[int] | None,
    mode: str,
    group: int,
) -> Compute:
    function = _CONVOLUTIONS[rank]
    stride, dilation = tuple(stride or (1,) * rank), tuple(dilation or (1,) * rank)
    pads = tuple(pads or (0,) * (2 * rank))
    if mode in ("NOTSET", "VALID", ""):
        pads = pads if mode != "VALID" else (0,) * (2 * rank)
        before, after = pads[:rank], pads[rank:]
        if before == after and min(before) >= 0:
            return lambda x, w, b=None: function(x, w, b, stride, before, dilation, group)
        sides = _sides(before, after)
        return lambda x, w, b=None: function(F.pad(x, sides), w, b, stride, 0, dilation, group)

    def automatic(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        before, after = [], []
        for axis in range(rank):
            size, reach = x.shape[2 + axis], (w.shape[2 + axis] - 1) * dilation[axis] + 1
            total = max((-(-size // stride[axis]) - 1) * stride[axis] + reach - size, 0)
            small, large = total // 2, total - total // 2
            before.append(small if mode == "SAME_UPPER" else large)
            after.append(large if mode == "SAME_UPPER" else small)
        if before == after:
            return function(x, w, b, stride, tuple(before), dilation, group)
        return function(F.pad(x, _sides(before, after)), w, b, stride, 0, dilation, group)

    return automatic


def _sides(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return pads as torch lists them: the last axis first."""
    return [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
