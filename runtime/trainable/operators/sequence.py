"""Sequences of tensors, as Python's lists, which no operator changes in place."""

from __future__ import annotations

from typing import Any

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch import Tensor


@operator("SequenceConstruct")
def prepare_construct(call: Call) -> Compute:
    """The inputs in a row."""
    return lambda *tensors: list(tensors)


@operator("SequenceEmpty")
def prepare_empty(call: Call) -> Compute:
    """Nothing in a row."""
    return lambda: []


@operator("SequenceLength")
def prepare_length(call: Call) -> Compute:
    """How many tensors there are."""
    return lambda tensors: torch.tensor(len(tensors))


@operator("SequenceAt", host=(1,))
def prepare_at(call: Call) -> Compute:
    """One of the tensors; negative places count from the end."""
    return lambda tensors, place: tensors[int(place)]


@operator("SequenceInsert", host=(2,))
def prepare_insert(call: Call) -> Compute:
    """A tensor put before a place, or at the end."""

    def compute(tensors: list[Any], tensor: Any, place: Tensor | None = None) -> list[Any]:
        at = len(tensors) if place is None else int(place)
        return [*tensors[:at], tensor, *tensors[at:]]

    return compute


@operator("SequenceErase", host=(1,))
def prepare_erase(call: Call) -> Compute:
    """All tensors but one, the last where no place is given."""

    def compute(tensors: list[Any], place: Tensor | None = None) -> list[Any]:
        at = (len(tensors) - 1 if place is None else int(place)) % len(tensors)
        return tensors[:at] + tensors[at + 1 :]

    return compute


@operator("SplitToSequence", host=(1,))
def prepare_split(call: Call) -> Compute:
    """Parts of one size, of given sizes, or single elements (whose axis goes if it is not to be kept)."""
    axis, keep = call.attribute("axis", 0), bool(call.attribute("keepdims", 1))
    read = call.integers(1)

    def compute(x: Tensor, split: Tensor | None = None) -> list[Tensor]:
        if split is None:
            return list(x.split(1, axis) if keep else x.unbind(axis))
        sizes = read(split)
        assert sizes is not None
        return list(x.split(sizes[0] if split.dim() == 0 else sizes, axis))

    return compute


@operator("ConcatFromSequence")
def prepare_concat(call: Call) -> Compute:
    """The tensors joined along an axis of theirs, or along a new one."""
    axis = call.attribute("axis")
    join = torch.stack if call.attribute("new_axis", 0) else torch.cat
    return lambda tensors: join(tensors, dim=axis)
