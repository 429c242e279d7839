"""Products and convolutions of integers.

They run in float64, which holds every sum of 8-bit products exactly and, unlike integers, has fast kernels and
gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call
from mopt.runtime.trainable.windows import Windows
from torch import Tensor
from torch.nn import functional

_CONVOLUTIONS: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d,
}  # fmt: skip


def spread(factor: Tensor, rank: int, axis: int) -> Tensor:
    """Shape one number, or one for each channel of an axis, so that it broadcasts against a tensor of that rank."""
    if factor.numel() == 1:
        return factor.reshape(())
    if factor.dim() != 1:
        return factor
    shape = [1] * rank
    shape[axis] = -1
    return factor.reshape(shape)


def integer_product(a: Tensor, b: Tensor, a_zero: Tensor | None, b_zero: Tensor | None) -> Tensor:
    """Return (a - zero point) @ (b - zero point); a one-dimensional zero point is one for each row or column."""
    left, right = a.double(), b.double()
    if a_zero is not None:
        left = left - (a_zero.unsqueeze(-1) if a_zero.dim() == 1 and a_zero.numel() > 1 else a_zero).double()
    if b_zero is not None:
        right = right - b_zero.double()
    return torch.matmul(left, right)


def integer_convolution(call: Call) -> Callable[..., Any]:
    """Return how to convolve (x - zero point) with (w - zero point); padding is x's zero point."""
    groups = call.attribute("group", 1)

    def convolve(x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None) -> Tensor:
        windows = Windows.of(call, w.shape[2:])
        image, kernel = x.double(), w.double()
        if x_zero is not None:
            image = image - x_zero.double()
        if w_zero is not None:
            kernel = kernel - spread(w_zero.double(), w.dim(), 0)
        sides = windows.padding(x.shape[2:])
        image = functional.pad(image, [amount for side in reversed(sides) for amount in side])
        return _CONVOLUTIONS[x.dim() - 2](image, kernel, None, windows.strides, 0, windows.dilations, groups)

    return convolve
