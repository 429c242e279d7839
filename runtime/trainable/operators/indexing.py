"""Operators that pick elements, put them, or find where they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch.nn import functional as F


def wrapped(indices: torch.Tensor, size: int) -> torch.Tensor:
    """Return indices from 0 on: negative ones count from the end."""
    indices = indices.to(torch.int64)
    return torch.where(indices < 0, indices + size, indices)


@operator("Gather")
def gather(call: Call) -> Compute:
    """Pick slices along an axis; rows of a table as an embedding does."""
    axis, known = call.attribute("axis", 0), call.constant(1)
    safe = known is not None and bool((known >= 0).all())
    if known is not None and known.ndim == 0:
        place = int(known)
        return lambda x, _: x.select(axis, place) if isinstance(x, torch.Tensor) else np.take(x, place, axis)

    def compute(x: Any, indices: torch.Tensor) -> Any:
        if not isinstance(x, torch.Tensor):
            return np.take(x, indices.numpy(), axis)
        indices = indices if safe else wrapped(indices, x.shape[axis])
        if axis == 0 and x.dim() == 2 and x.is_floating_point():
            return F.embedding(indices, x)
        if indices.dim() == 0 and not x.requires_grad:
            return x.index_select(axis, indices.reshape(1)).squeeze(axis)
        first = axis % x.dim()
        picked = x.index_select(first, indices.reshape(-1))
        return picked.reshape((*x.shape[:first], *indices.shape, *x.shape[first + 1 :]))

    return compute


@operator("GatherElements")
def gather_elements(call: Call) -> Compute:
    """Pick elements along an axis, one for each index."""
    axis = call.attribute("axis", 0)
    return lambda x, indices: torch.gather(x, axis, wrapped(indices, x.shape[axis]))


@operator("GatherND")
def gather_nd(call: Call) -> Compute:
    """Pick slices by tuples of indices."""
    batch = call.attribute("batch_dims", 0)

    def compute(x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        depth, shape = indices.shape[-1], x.shape
        flat = x.reshape((-1, *shape[batch:])) if batch else x[None]
        places = indices.reshape((flat.shape[0], -1, depth)).to(torch.int64)
        own = torch.arange(flat.shape[0], device=x.device)[:, None].expand(places.shape[:2])
        picked = flat[(own, *places.unbind(-1))]
        return picked.reshape((*indices.shape[:-1], *shape[batch + depth :]))

    return compute


@operator("Slice", host=(1, 2, 3, 4))
def cut(call: Call) -> Compute:
    """From start to end by steps along axes; steps may go backwards."""
    if call.opset < 10:
        starts, ends, axes = (call.attribute(name) for name in ("starts", "ends", "axes"))
        return lambda x: _sliced(x, starts, ends, axes, None)
    reads = [call.integers(place) for place in range(1, 5)]

    def compute(x: torch.Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> torch.Tensor:
        first, last, along, by = (read(given) for read, given in zip(reads, (starts, ends, axes, steps), strict=True))
        assert first is not None and last is not None
        return _sliced(x, first, last, along, by)

    return compute


def _sliced(
    x: Any, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None, steps: Sequence[int] | None
) -> Any:
    if not isinstance(x, torch.Tensor):
        places = [slice(None)] * x.ndim
        for place, axis in enumerate(range(len(starts)) if axes is None else axes):
            places[axis] = slice(starts[place], ends[place], 1 if steps is None else steps[place])
        return x[tuple(places)]
    for place, axis in enumerate(range(len(starts)) if axes is None else axes):
        size, step = x.shape[axis], 1 if steps is None else steps[place]
        first, last, step = slice(starts[place], ends[place], step).indices(size)
        if step > 0:
            if step == 1:
                x = x.narrow(axis, first, max(last - first, 0)) if (first, last) != (0, size) else x
            else:
                x = x[(slice(None),) * (axis % x.dim()) + (slice(first, max(last, first), step),)]
        else:
            x = x.index_select(axis, torch.arange(first, last, step, device=x.device))
    return x


_REDUCTIONS: Final = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


@operator("ScatterElements", "Scatter")
def scatter_elements(call: Call) -> Compute:
    """Put elements along an axis, or combine them with what is there."""
    axis, reduction = call.attribute("axis", 0), call.attribute("reduction", "none")

    def compute(x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        places = wrapped(indices, x.shape[axis])
        if reduction == "none":
            return x.scatter(axis, places, updates)
        return x.scatter_reduce(axis, places, updates, _REDUCTIONS[reduction])

    return compute


@operator("ScatterND")
def scatter_nd(call: Call) -> Compute:
    """Put slices by tuples of indices, or combine them with what is there."""
    reduction = call.attribute("reduction", "none")

    def compute(x: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        depth = indices.shape[-1]
        rows, width = int(np.prod(x.shape[:depth])), int(np.prod(x.shape[depth:]))
        place = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
        for axis in range(depth):
            place = place * x.shape[axis] + wrapped(indices[..., axis], x.shape[axis])
        flat, given = x.reshape(rows, width), updates.reshape(-1, width)
        targets = place.reshape(-1, 1).expand(-1, width)
        if reduction == "none":
            return flat.scatter(0, targets, given).reshape(x.shape)
        return flat.scatter_reduce(0, targets, given, _REDUCTIONS[reduction]).reshape(x.shape)

    return compute


@operator("TensorScatter")
def tensor_scatter(call: Call) -> Compute:
    """Write new entries into a cache, from a place on that each sample has."""
    axis, mode = call.attribute("axis", -2), call.attribute("mode", "linear")

    def compute(past: torch.Tensor, update: torch.Tensor, starts: torch.Tensor | None = None) -> torch.Tensor:
        along, length = axis % past.dim(), past.shape[axis]
        count = past.shape[0]
        starts = torch.zeros(count, dtype=torch.int64, device=past.device) if starts is None else starts.to(torch.int64)
        places = starts[:, None] + torch.arange(update.shape[axis], device=past.device)[None]
        places = places % length if mode == "circular" else places
        shape = [1] * past.dim()
        shape[0], shape[along] = count, update.shape[axis]
        return past.scatter(along, places.reshape(shape).expand(update.shape), update)

    return compute


@operator("OneHot", host=(1,))
def one_hot(call: Call) -> Compute:
    """`on` where an axis' place is the index, `off` elsewhere; indices outside give `off` only."""
    axis = call.attribute("axis", -1)

    def compute(indices: torch.Tensor, depth: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        size = int(depth.reshape(-1)[0])
        places = wrapped(indices, size).unsqueeze(-1) == torch.arange(size, device=indices.device)
        found = torch.where(places, values[1], values[0])
        return found.movedim(-1, axis)

    return compute


@operator("NonZero")
def non_zero(call: Call) -> Compute:
    """The places of what is not zero, [rank, count]."""
    return lambda x: torch.nonzero(x).t().contiguous() if x.dim() else torch.nonzero(x.reshape(1))[:, :0].t()


@operator("Compress", host=(1,))
def compress(call: Call) -> Compute:
    """Pick the slices whose condition holds."""
    axis = call.attribute("axis")

    def compute(x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        places = torch.nonzero(condition).reshape(-1).to(x.device)
        return x.reshape(-1).index_select(0, places) if axis is None else x.index_select(axis, places)

    return compute


@operator("TopK", host=(1,))
def top_k(call: Call) -> Compute:
    """The k largest (or smallest) along an axis, among equals the first ones, and their places."""
    axis, largest = call.attribute("axis", -1), bool(call.attribute("largest", 1))
    attribute = call.attribute("k")
    read = call.integers(1) if call.opset >= 10 else lambda _: [attribute]

    def compute(x: torch.Tensor, k: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        count = (read(k) or [0])[0]
        wide = x.to(torch.int64) if x.dtype in (torch.uint16, torch.uint32, torch.uint64) else x
        # torch's topk may return any of equal elements; a stable sort returns the first, as ONNX says.
        values, places = torch.sort(wide, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, count).to(x.dtype), places.narrow(axis, 0, count)

    return compute


@operator("Unique")
def unique(call: Call) -> Compute:
    """Different elements (or slices along an axis), where each is first, which each element is, how many there are."""
    axis, ordered = call.attribute("axis"), bool(call.attribute("sorted", 1))

    def compute(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = x.reshape(-1) if axis is None else x
        along = 0 if axis is None else axis % x.dim()
        values, inverse, counts = torch.unique(flat, sorted=True, return_inverse=True, return_counts=True, dim=along)
        inverse = inverse.reshape(-1)
        total = torch.arange(inverse.numel(), device=x.device)
        first = torch.full((counts.numel(),), inverse.numel(), dtype=torch.int64, device=x.device)
        first = first.scatter_reduce(0, inverse, total, "amin")
        if not ordered:
            order = torch.argsort(first)
            back = torch.argsort(order)
            values, first, counts, inverse = (
                values.index_select(along, order),
                first[order],
                counts[order],
                back[inverse],
            )
        return values, first, inverse, counts

    return compute


@operator("CumSum", "CumProd", host=(1,))
def cumulate(call: Call) -> Compute:
    """Running sums or products along an axis: forwards or backwards, with or without the element itself."""
    total = call.node.op_type == "CumSum"
    exclusive, backwards = bool(call.attribute("exclusive", 0)), bool(call.attribute("reverse", 0))
    read = call.integers(1)

    def compute(x: torch.Tensor, at: Any) -> torch.Tensor:
        axis = (read(at) or [0])[0]
        x = x.flip(axis) if backwards else x
        if exclusive:
            start = x.new_zeros(()) if total else x.new_ones(())
            first = start.expand([1 if place == axis % x.dim() else size for place, size in enumerate(x.shape)])
            x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
        found = x.cumsum(axis, dtype=x.dtype) if total else x.cumprod(axis, dtype=x.dtype)
        return found.flip(axis) if backwards else found

    return compute


@operator("Trilu", host=(1,))
def trilu(call: Call) -> Compute:
    """The triangle above the k-th diagonal, or below."""
    function, read = torch.triu if call.attribute("upper", 1) else torch.tril, call.integers(1)
    return lambda x, k=None: function(x, (read(k) or [0])[0])


@operator("ReverseSequence", host=(1,))
def reverse_sequence(call: Call) -> Compute:
    """Turn the first part of each sequence round."""
    time, batch = call.attribute("time_axis", 0), call.attribute("batch_axis", 1)
    read = call.integers(1)

    def compute(x: torch.Tensor, lengths: Any) -> torch.Tensor:
        counts = read(lengths)
        assert counts is not None
        x = x.movedim((batch, time), (0, 1))
        steps = torch.arange(x.shape[1])
        places = torch.stack([torch.where(steps < count, count - 1 - steps, steps) for count in counts]).to(x.device)
        own = torch.arange(x.shape[0], device=x.device)[:, None]
        return x[own, places].movedim((0, 1), (batch, time))

    return compute
