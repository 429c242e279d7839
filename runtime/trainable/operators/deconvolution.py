"""Transposed convolution, and putting columns back into an image."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Final

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from mopt.runtime.trainable.windows import Windows
from torch import Tensor
from torch.nn import functional

_TRANSPOSED: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d,
}  # fmt: skip


@operator("ConvTranspose")
def prepare_conv_transpose(call: Call) -> Compute:
    """torch's kernel; what it cannot pad or crop by itself is done on its full result."""
    groups = call.attribute("group", 1)
    extra = call.attribute("output_padding")
    shape = call.attribute("output_shape")

    def compute(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        windows = Windows.of(call, w.shape[2:])
        rank = len(windows.kernel)
        more = extra or (0,) * rank
        sides = [_side(windows, axis, x.shape[2 + axis], more[axis], shape) for axis in range(rank)]
        ends = [more[axis] + begin - end for axis, (begin, end) in enumerate(sides)]
        convolve = _TRANSPOSED[rank]
        limits = [max(windows.strides[axis], windows.dilations[axis]) for axis in range(rank)]
        if all(begin >= 0 for begin, _ in sides) and all(
            0 <= end < limit for end, limit in zip(ends, limits, strict=True)
        ):
            begins = [begin for begin, _ in sides]
            return convolve(x, w, bias, windows.strides, begins, ends, groups, windows.dilations)
        full = convolve(x, w, None, windows.strides, 0, 0, groups, windows.dilations)
        crops = [
            amount for axis in range(rank - 1, -1, -1) for amount in (-sides[axis][0], more[axis] - sides[axis][1])
        ]
        result = functional.pad(full, crops)
        return result if bias is None else result + bias.reshape(-1, *[1] * rank)

    return compute


def _side(windows: Windows, axis: int, size: int, extra: int, shape: tuple[int, ...] | None) -> tuple[int, int]:
    """What is cut off the full result at both ends of an axis; negative where it is extended."""
    full = (size - 1) * windows.strides[axis] + windows.extent(axis) + extra
    if shape is not None:
        total = full - shape[len(shape) - len(windows.kernel) + axis]
    elif windows.auto in ("SAME_UPPER", "SAME_LOWER"):
        total = full - size * windows.strides[axis]
    elif windows.auto == "VALID":
        return 0, 0
    else:
        return windows.pads[axis], windows.pads[axis + len(windows.kernel)]
    if total < 0:  # the result is extended at its end
        return 0, total
    less = total // 2
    return (less, total - less) if windows.auto == "SAME_UPPER" else (total - less, less)


@operator("Col2Im", host=(1, 2))
def prepare_col2im(call: Call) -> Compute:
    """Add every column up at the places that its window covers."""
    image_of, block_of = call.integers(1), call.integers(2)

    def compute(x: Tensor, image_shape: Tensor, block_shape: Tensor) -> Tensor:
        image, block = image_of(image_shape), block_of(block_shape)
        assert image is not None and block is not None
        windows = Windows.of(call, block)
        sides = windows.padding(image)
        padded = [size + begin + end for size, (begin, end) in zip(image, sides, strict=True)]
        rank = len(image)
        places = windows.cut(torch.arange(prod(padded), device=x.device).reshape(padded))
        order = [*range(rank, 2 * rank), *range(rank)]  # a column's elements first, then the windows
        flat = places.permute(order).reshape(-1)
        columns = x.reshape(x.shape[0], x.shape[1] // prod(block), -1)
        total = x.new_zeros(*columns.shape[:2], prod(padded)).index_add(2, flat, columns)
        crops = [-amount for begin, end in reversed(sides) for amount in (begin, end)]
        return functional.pad(total.reshape(*columns.shape[:2], *padded), crops)

    return compute


@operator("CausalConvWithState")
def prepare_causal_convolution(call: Call) -> Compute:
    """A depthwise convolution over the past; the last inputs are handed on to the next call."""
    activate = call.attribute("activation", "none") in ("silu", "swish")

    def compute(x: Tensor, w: Tensor, bias: Tensor | None = None, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        reach = w.shape[2] - 1
        whole = functional.pad(x, [reach, 0]) if past is None else torch.cat([past, x], dim=2)
        result = functional.conv1d(whole, w, bias, groups=x.shape[1])
        state = whole[:, :, whole.shape[2] - reach :]
        return (functional.silu(result) if activate else result), state

    return compute
