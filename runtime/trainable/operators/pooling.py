"""Pooling over windows and over whole images."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from mopt.runtime.trainable.windows import Windows
from torch import Tensor
from torch.nn import functional

_MAX: Final[dict[int, Callable[..., Any]]] = {
    1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d,
}  # fmt: skip
_AVERAGE: Final[dict[int, Callable[..., Tensor]]] = {
    1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d,
}  # fmt: skip


def _flat(sides: list[tuple[int, int]]) -> list[int]:
    """Padding in torch's order: the last axis first."""
    return [amount for side in reversed(sides) for amount in side]


def _complete(windows: Windows, x: Tensor, sides: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Padding after which every window lies inside."""
    sizes = x.shape[2:]
    return [(side[0], side[1] + windows.overhang(axis, sizes[axis], side)) for axis, side in enumerate(sides)]


def _symmetric(windows: Windows, sides: list[tuple[int, int]]) -> bool:
    """Whether torch's own pooling pads like this."""
    return all(begin == end and 2 * begin <= size for (begin, end), size in zip(sides, windows.kernel, strict=True))


@operator("MaxPool")
def prepare_max_pool(call: Call) -> Compute:
    """torch's own kernel; uneven padding is done before it. Indices count over the whole tensor, as ONNX wants."""
    windows = Windows.of(call)
    rank = len(windows.kernel)
    column_major = bool(call.attribute("storage_order", 0))
    indices = call.outputs > 1
    pool = _MAX.get(rank)

    def compute(x: Tensor) -> Any:
        sides = windows.padding(x.shape[2:])
        real = x if x.is_floating_point() else x.to(torch.float32)  # 8-bit integers are exact in it
        if pool is None or indices:
            values, places = _max_and_place(windows, real, sides, column_major)
            return (values.to(x.dtype), places) if indices else values.to(x.dtype)
        ceil, begins = windows.ceil and windows.auto == "NOTSET", [begin for begin, _ in sides]
        if not _symmetric(windows, sides):
            real = functional.pad(real, _flat(_complete(windows, x, sides)), value=-float("inf"))
            ceil, begins = False, [0] * rank
        result = pool(real, windows.kernel, windows.strides, begins, windows.dilations, ceil)
        return result if result.dtype == x.dtype else result.to(x.dtype)

    return compute


def _max_and_place(
    windows: Windows, x: Tensor, sides: list[tuple[int, int]], column_major: bool
) -> tuple[Tensor, Tensor]:
    rank, sizes = len(windows.kernel), list(x.shape[2:])
    pads = _flat(_complete(windows, x, sides))
    cut = windows.cut(functional.pad(x, pads, value=-float("inf"))).flatten(-rank)
    values, chosen = cut.max(-1)
    numbers = torch.arange(prod(sizes), device=x.device)
    image = numbers.reshape(sizes[::-1]).permute(*range(rank - 1, -1, -1)) if column_major else numbers.reshape(sizes)
    places = windows.cut(functional.pad(image, pads)).flatten(-rank).expand(cut.shape)
    places = places.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
    images = torch.arange(x.shape[0] * x.shape[1], device=x.device) * prod(sizes)
    return values, places + images.reshape(x.shape[0], x.shape[1], *[1] * rank)


@operator("AveragePool")
def prepare_average_pool(call: Call) -> Compute:
    """The mean over what of a window lies in the image, or in the image and its declared padding."""
    windows = Windows.of(call)
    rank = len(windows.kernel)
    include = bool(call.attribute("count_include_pad", 0))
    pool = _AVERAGE.get(rank)
    plain = all(step == 1 for step in windows.dilations)

    def compute(x: Tensor) -> Tensor:
        sides = windows.padding(x.shape[2:])
        if pool is not None and plain and _symmetric(windows, sides):
            ceil = windows.ceil and windows.auto == "NOTSET"
            return pool(x, windows.kernel, windows.strides, [begin for begin, _ in sides], ceil, include)
        complete = _flat(_complete(windows, x, sides))
        total = windows.cut(functional.pad(x, complete)).sum(dim=tuple(range(-rank, 0)))
        inside = x.new_ones(tuple(x.shape[2:]))
        if include:
            inside = functional.pad(inside, _flat(sides), value=1.0)
            complete = [amount for axis in range(rank - 1, -1, -1) for amount in (0, _extra(windows, x, sides, axis))]
        counted = windows.cut(functional.pad(inside, complete)).sum(dim=tuple(range(-rank, 0)))
        return total / counted

    return compute


def _extra(windows: Windows, x: Tensor, sides: list[tuple[int, int]], axis: int) -> int:
    return windows.overhang(axis, x.shape[2 + axis], sides[axis])


@operator("LpPool")
def prepare_lp_pool(call: Call) -> Compute:
    """The p-norm of each window; padding counts as zeros."""
    windows = Windows.of(call)
    rank, order = len(windows.kernel), call.attribute("p", 2)

    def compute(x: Tensor) -> Tensor:
        sides = windows.padding(x.shape[2:])
        cut = windows.cut(functional.pad(x, _flat(_complete(windows, x, sides))))
        return torch.linalg.vector_norm(cut, order, dim=tuple(range(-rank, 0)))

    return compute


@operator("GlobalAveragePool")
def prepare_global_average_pool(call: Call) -> Compute:
    """The mean of each channel."""
    return lambda x: x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalMaxPool")
def prepare_global_max_pool(call: Call) -> Compute:
    """The greatest element of each channel."""
    return lambda x: x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


@operator("GlobalLpPool")
def prepare_global_lp_pool(call: Call) -> Compute:
    """The p-norm of each channel."""
    order = call.attribute("p", 2)
    return lambda x: torch.linalg.vector_norm(x, order, dim=tuple(range(2, x.dim())), keepdim=True)


@operator("MaxUnpool", host=(2,))
def prepare_max_unpool(call: Call) -> Compute:
    """Put each element back where MaxPool's indices, which count over the whole tensor before pooling, say."""
    windows = Windows.of(call)
    read = call.integers(2)
    rank = len(windows.kernel)

    def compute(x: Tensor, places: Tensor, shape: Tensor | None = None) -> Tensor:
        natural = [
            (x.shape[2 + axis] - 1) * windows.strides[axis]
            + windows.kernel[axis]
            - windows.pads[axis]
            - windows.pads[axis + rank]
            for axis in range(rank)
        ]
        full = read(shape) or [*x.shape[:2], *natural]
        # Indices refer to the tensor that was pooled, whose shape is the natural one; a larger output takes the
        # elements at the same coordinates.
        flat = x.new_zeros(prod([*x.shape[:2], *natural])).scatter(0, places.reshape(-1), x.reshape(-1))
        small = flat.reshape([*x.shape[:2], *natural])
        if list(small.shape) == list(full):
            return small
        return functional.pad(
            small, [n for axis in range(x.dim() - 1, 1, -1) for n in (0, full[axis] - small.shape[axis])]
        )

    return compute
