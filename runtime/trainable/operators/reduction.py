"""Reductions over axes, and the places of extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch import Tensor

Reduce = Callable[[Tensor, "list[int]", bool], Tensor]

_UNSIGNED: Final = frozenset({torch.uint16, torch.uint32, torch.uint64})


def _wide(x: Tensor) -> Tensor:
    """Integers that torch cannot sum or compare, in a type that it can."""
    return x.to(torch.int64) if x.dtype in _UNSIGNED else x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(_wide(x), dim=axes, keepdim=keep).to(x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, dim=axes, keepdim=keep)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(torch.sum(_wide(x), dim=axes, keepdim=keep), count, rounding_mode="trunc").to(x.dtype)


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    result = _wide(x)
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        result = torch.prod(result, dim=axis, keepdim=keep)
    return result.to(x.dtype)


def _lowest(dtype: torch.dtype) -> Any:
    if dtype == torch.bool:
        return False
    return -float("inf") if dtype.is_floating_point else torch.iinfo(dtype).min


def _highest(dtype: torch.dtype) -> Any:
    if dtype == torch.bool:
        return True
    return float("inf") if dtype.is_floating_point else torch.iinfo(dtype).max


def _extreme(reduce: Callable[..., Tensor], identity: Callable[[torch.dtype], Any]) -> Reduce:
    def compute(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.numel() == 0:
            shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
            kept = x.new_full(shape, identity(x.dtype))
            return kept if keep else kept.squeeze(tuple(axes))
        return reduce(_wide(x), dim=axes, keepdim=keep).to(x.dtype)

    return compute


def _logarithm(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.log(x.to(torch.get_default_dtype()) if not x.is_floating_point() else x).to(dtype)


def _log_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _logarithm(_sum(x, axes, keep), x.dtype)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    real = x if x.is_floating_point() else x.to(torch.float64)
    return torch.logsumexp(real, dim=axes, keepdim=keep).to(x.dtype)


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x.abs() if x.dtype not in _UNSIGNED else x, axes, keep)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, dim=axes, keepdim=keep)
    return torch.linalg.vector_norm(x.to(torch.float64), dim=axes, keepdim=keep).to(x.dtype)


def _sum_square(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    wide = _wide(x)
    return torch.sum(wide * wide, dim=axes, keepdim=keep).to(x.dtype)


_REDUCTIONS: Final[dict[str, Reduce]] = {
    "ReduceSum": _sum, "ReduceMean": _mean, "ReduceProd": _prod,
    "ReduceMax": _extreme(torch.amax, _lowest), "ReduceMin": _extreme(torch.amin, _highest),
    "ReduceLogSum": _log_sum, "ReduceLogSumExp": _log_sum_exp,
    "ReduceL1": _l1, "ReduceL2": _l2, "ReduceSumSquare": _sum_square,
}  # fmt: skip


@operator(*_REDUCTIONS, host=(1,))
def prepare_reduction(call: Call) -> Compute:
    """Axes are an attribute in older operator sets and an input in newer ones; none means all, or nothing at all."""
    reduce = _REDUCTIONS[call.node.op_type]
    keep = bool(call.attribute("keepdims", 1))
    attribute: Sequence[int] = call.attribute("axes", ())
    nothing = bool(call.attribute("noop_with_empty_axes", 0))
    read = call.integers(1)

    def compute(x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = list(attribute) or read(axes)
        if not chosen:
            if nothing:
                # Without axes to reduce over, what is done to each element is still done.
                return reduce(x.unsqueeze(-1), [x.dim()], False)
            chosen = list(range(x.dim()))
        elif min(chosen) < 0:
            chosen = [axis % x.dim() for axis in chosen]
        if not chosen:  # a scalar
            return reduce(x.unsqueeze(0), [0], False)
        return reduce(x, chosen, keep)

    return compute


@operator("ArgMax", "ArgMin")
def prepare_argument(call: Call) -> Compute:
    """Of equal extremes the first one's place, or the last one's where asked for."""
    axis = call.attribute("axis", 0)
    keep = bool(call.attribute("keepdims", 1))
    last = bool(call.attribute("select_last_index", 0))
    find = torch.argmax if call.node.op_type == "ArgMax" else torch.argmin

    def compute(x: Tensor) -> Tensor:
        wide = _wide(x.detach())
        if not last:
            return find(wide, dim=axis, keepdim=keep)
        return x.shape[axis] - 1 - find(wide.flip(axis), dim=axis, keepdim=keep)

    return compute
