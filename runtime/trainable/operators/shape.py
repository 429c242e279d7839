"""Operators that look at shapes or change them. Shapes are int64 tensors in the CPU's memory, read as integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mopt.runtime.trainable.operator import Call, Compute, UnsupportedOperatorError, operator
from mopt.runtime.trainable.tensors import to_torch


@operator("Constant")
def constant(call: Call) -> Compute:
    """What an attribute holds (inside a function, perhaps one of the call's)."""
    for name in ("value", "value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings"):
        found = call.attribute(name)
        if found is not None:
            dtype = {"float": np.float32, "floats": np.float32, "int": np.int64, "ints": np.int64}
            content = to_torch(np.asarray(found, dtype=dtype.get(name.removeprefix("value_"))))
            return lambda: content
    raise UnsupportedOperatorError("a sparse constant")


@operator("Identity")
def identity(call: Call) -> Compute:
    """The same."""
    return lambda x: x


@operator("Shape")
def shape(call: Call) -> Compute:
    """The sizes from axis `start` to axis `end`."""
    start, end = call.attribute("start", 0), call.attribute("end")
    return lambda x: torch.tensor(tuple(x.shape)[start:end], dtype=torch.int64)


@operator("Size")
def size(call: Call) -> Compute:
    """The number of elements."""
    return lambda x: torch.tensor(int(np.prod(x.shape, dtype=np.int64)))


@operator("Reshape", host=(1,))
def reshape(call: Call) -> Compute:
    """To a shape; 0 keeps a size (unless allowzero), -1 is computed."""
    if call.opset < 5:
        target = call.attribute("shape")
        return lambda x: _reshaped(x, target, False)
    read, keep_zero = call.integers(1), bool(call.attribute("allowzero", 0))
    return lambda x, target: _reshaped(x, read(target), keep_zero)


def _reshaped(x: Any, target: Sequence[int] | None, keep_zero: bool) -> Any:
    assert target is not None
    if not keep_zero and 0 in target:
        target = [x.shape[axis] if length == 0 else length for axis, length in enumerate(target)]
    return x.reshape(list(target))


@operator("Flatten")
def flatten(call: Call) -> Compute:
    """To a matrix: the axes before `axis`, and the others."""
    axis = call.attribute("axis", 1)

    def compute(x: torch.Tensor) -> torch.Tensor:
        first = axis + x.dim() if axis < 0 else axis
        return x.reshape(int(np.prod(x.shape[:first], dtype=np.int64)), int(np.prod(x.shape[first:], dtype=np.int64)))

    return compute


@operator("Transpose")
def transpose(call: Call) -> Compute:
    """Permute the axes."""
    order = call.attribute("perm")
    if order is None:
        return lambda x: x.permute(*range(x.ndim - 1, -1, -1)) if isinstance(x, torch.Tensor) else x.T
    return lambda x: x.permute(order) if isinstance(x, torch.Tensor) else x.transpose(order)


@operator("Squeeze", host=(1,))
def squeeze(call: Call) -> Compute:
    """Remove axes of size 1."""
    attribute = call.attribute("axes")
    read = call.integers(1) if call.opset >= 13 else lambda _: attribute

    def compute(x: torch.Tensor, axes: Any = None) -> torch.Tensor:
        wanted = read(axes)
        if wanted is None:
            return x.squeeze()
        for axis in wanted:
            if x.shape[axis] != 1:
                raise ValueError(f"axis {axis} of shape {tuple(x.shape)} is to be squeezed, but is not 1")
        return x.squeeze(tuple(wanted))

    return compute


@operator("Unsqueeze", host=(1,))
def unsqueeze(call: Call) -> Compute:
    """Put axes of size 1 in."""
    attribute = call.attribute("axes")
    read = call.integers(1) if call.opset >= 13 else lambda _: attribute

    def compute(x: torch.Tensor, axes: Any = None) -> torch.Tensor:
        wanted = read(axes) or []
        rank = x.dim() + len(wanted)
        for axis in sorted(axis % rank for axis in wanted):
            x = x.unsqueeze(axis)
        return x

    return compute


@operator("Expand", host=(1,))
def expand(call: Call) -> Compute:
    """Broadcast to a shape (in both directions)."""
    read = call.integers(1)

    def compute(x: torch.Tensor, target: Any) -> torch.Tensor:
        wanted = read(target)
        assert wanted is not None
        return x.expand(torch.broadcast_shapes(x.shape, wanted))

    return compute


@operator("Tile", host=(1,))
def tile(call: Call) -> Compute:
    """Repeat along each axis."""
    read = call.integers(1)
    if call.opset < 6:
        return lambda x, count, axis: x.repeat_interleave(1, 0) if x.dim() == 0 else _tiled(x, int(count), int(axis))
    return lambda x, repeats: x.repeat(read(repeats))


def _tiled(x: torch.Tensor, count: int, axis: int) -> torch.Tensor:
    repeats = [1] * x.dim()
    repeats[axis] = count
    return x.repeat(repeats)


@operator("Concat")
def concat(call: Call) -> Compute:
    """Join along an axis."""
    axis = call.attribute("axis", 1)

    def compute(*parts: Any) -> Any:
        return torch.cat(parts, axis) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts, axis)

    return compute


@operator("Split", host=(1,))
def split(call: Call) -> Compute:
    """Cut along an axis: into given lengths, or into as many equal parts as there are outputs."""
    axis, attribute, count = call.attribute("axis", 0), call.attribute("split"), call.outputs
    parts = call.attribute("num_outputs") or count
    read = call.integers(1) if call.opset >= 13 else lambda _: attribute

    def compute(x: torch.Tensor, lengths: Any = None) -> tuple[torch.Tensor, ...]:
        wanted = read(lengths)
        if wanted is None:
            total = x.shape[axis]
            each = -(-total // parts)
            wanted = [max(min(each, total - each * place), 0) for place in range(parts)]
        return tuple(x.split(list(wanted), axis))

    return compute


@operator("ConstantOfShape", host=(0,))
def constant_of_shape(call: Call) -> Compute:
    """One value everywhere; zeros of float32 by default."""
    value, read = call.attribute("value"), call.integers(0)
    content = torch.zeros(1) if value is None else to_torch(np.asarray(value).reshape(-1))
    assert isinstance(content, torch.Tensor)

    def compute(target: Any) -> torch.Tensor:
        return content.expand(1).reshape(()).expand(read(target) or []).clone()

    return compute


@operator("Range", host=(0, 1, 2))
def arange(call: Call) -> Compute:
    """start, start + delta, … before limit; integers exactly."""

    def compute(start: torch.Tensor, limit: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
        first, last, step = (tensor.reshape(()).item() for tensor in (start, limit, delta))
        if not start.is_floating_point():
            return torch.arange(first, last, step, dtype=start.dtype)
        count = max(int(np.ceil((last - first) / step)), 0)
        return (first + step * torch.arange(count, dtype=torch.float64)).to(start.dtype)

    return compute


@operator("EyeLike")
def eye_like(call: Call) -> Compute:
    """Ones on the k-th diagonal."""
    import onnx_ir as ir
    from mopt.runtime.trainable.tensors import TORCH_DTYPES

    kind, k = call.attribute("dtype"), call.attribute("k", 0)
    dtype = None if kind is None else TORCH_DTYPES[ir.DataType(kind)]

    def compute(x: torch.Tensor) -> torch.Tensor:
        rows, columns = x.shape
        places = torch.arange(columns, device=x.device)[None] - torch.arange(rows, device=x.device)[:, None] == k
        return places.to(dtype or x.dtype)

    return compute


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Compute:
    """Blocks of channels to squares of pixels; the channels' order is DCR or CRD."""
    block, mode = call.attribute("blocksize"), call.attribute("mode", "DCR")

    def compute(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        inner = c // block**2
        if mode == "DCR":
            spread = x.reshape(n, block, block, inner, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            spread = x.reshape(n, inner, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
        return spread.reshape(n, inner, h * block, w * block)

    return compute


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Compute:
    """Squares of pixels to channels."""
    block, mode = call.attribute("blocksize"), call.attribute("mode", "DCR")
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)

    def compute(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        spread = x.reshape(n, c, h // block, block, w // block, block).permute(order)
        return spread.reshape(n, c * block**2, h // block, w // block)

    return compute


@operator("Pad", host=(1, 2, 3))
def pad(call: Call) -> Compute:
    """Grow (or cut, by negative pads) at both ends of axes: a constant, the edge, mirrored or wrapped around."""
    mode, attribute = call.attribute("mode", "constant"), call.attribute("pads", call.attribute("paddings"))
    if call.opset < 11:
        fill = call.attribute("value", 0.0)
        return lambda x: _padded(x, attribute, list(range(x.dim())), mode, fill)
    read, read_axes, known = call.integers(1), call.integers(3), call.constant(2)
    number = None if known is None or not known.size else known.reshape(-1)[0].item()

    def compute(x: torch.Tensor, pads: Any, value: Any = None, axes: Any = None) -> torch.Tensor:
        fill = number if number is not None else value.reshape(()).item() if value is not None else 0
        wanted, chosen = read(pads), read_axes(axes)
        assert wanted is not None
        return _padded(x, wanted, list(range(x.dim())) if chosen is None else chosen, mode, fill)

    return compute


def _padded(x: torch.Tensor, pads: Sequence[int], axes: Sequence[int], mode: str, fill: float) -> torch.Tensor:
    count, rank = len(axes), x.dim()
    sides = {axis % rank: (pads[place], pads[count + place]) for place, axis in enumerate(axes)}
    if mode == "constant":
        listed = [side for axis in reversed(range(rank)) for side in sides.get(axis, (0, 0))]
        return torch.nn.functional.pad(x, listed, value=fill) if any(listed) else x
    for axis, (before, after) in sides.items():
        if before < 0 or after < 0:
            start = max(-before, 0)
            x = x.narrow(axis, start, x.shape[axis] - start - max(-after, 0))
            before, after = max(before, 0), max(after, 0)
        if before or after:
            x = x.index_select(axis, _places(x.shape[axis], before, after, mode).to(x.device))
    return x


def _places(size: int, before: int, after: int, mode: str) -> torch.Tensor:
    """Return, for each place along a padded axis, the place its element is taken from."""
    places = torch.arange(-before, size + after)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places % period
    return torch.where(places < size, places, period - places)
