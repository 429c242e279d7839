"""N:M pruning over the weights of a module."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.ir import Module
from mopt.ir.weights import Weight
from mopt.passes.contract import Note, PassError, PassResult, Sparsity
from mopt.passes.prune.nm_axis import reduction_axis
from mopt.passes.prune.prunable import Candidate, candidates
from mopt.passes.prune.scope_notes import check_finite, idle_patterns, left_alone, nothing_to_do, refuse_quantized
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.passes.prune.nm import NM


def prune(module: Module, options: NM, share: float = 1.0) -> PassResult:
    """Zero this share of what the pattern takes, in place. See `NM.run`."""
    keep, of = options.pattern.n, options.pattern.m
    if not 0 < keep < of:
        raise PassError(
            f"the pattern {options.pattern} keeps {'nothing' if keep <= 0 else 'every weight'}",
            help="N:M keeps N of every M weights, with N between 1 and M - 1: `2:4`",
        )
    refuse_quantized(module)
    found = candidates(module, options.only, options.skip, ())
    chosen, reasons = _choose(found, of)
    if not chosen:
        raise nothing_to_do(found, options.only, reasons, f"pruned to {options.pattern}")
    for weight, _ in chosen:
        check_finite(weight)
    modified, total, zeros = False, 0, 0
    for weight, axis in chosen:
        array = weight.numpy()
        mask = smallest_of_each(array, axis, keep, of)
        if share < 1:
            mask = _smallest_marked(array, mask, share)
        if np.any(array[mask]):
            array = np.where(mask, array.dtype.type(0), array)
            weight.replace(array)
            modified = True
        total += array.size
        zeros += array.size - int(np.count_nonzero(array))
    notes = [
        Note(
            f"{len(chosen)} weights are {options.pattern} sparse{f' by {share:.0%}' if share < 1 else ''}: "
            f"{zeros:,} of {total:,} elements are zero"
        ),
        *left_alone(reasons),
        *idle_patterns(found, options.only, options.skip),
    ]
    return PassResult(module, modified, tuple(notes))


def smallest_of_each(array: NDArray[Any], axis: int, keep: int, of: int) -> NDArray[np.bool_]:
    """Mark the `of - keep` smallest magnitudes of every `of` neighbours along an axis, earlier ones first."""
    # In double precision: numpy 2.4 sorts float16 wrongly on processors with AVX512-FP16.
    moved = np.moveaxis(np.abs(array).astype(np.float64), axis, -1)
    groups = moved.reshape(*moved.shape[:-1], moved.shape[-1] // of, of)
    order = np.argsort(groups, axis=-1, kind="stable")
    marked = np.zeros(groups.shape, bool)
    np.put_along_axis(marked, order[..., : of - keep], True, axis=-1)
    return np.moveaxis(marked.reshape(moved.shape), -1, axis)


def _smallest_marked(array: NDArray[Any], mask: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Return a mask of the share of the marked elements whose magnitudes are smallest, earlier ones first."""
    at = np.flatnonzero(mask)
    order = np.argsort(np.abs(array.reshape(-1)[at]).astype(np.float64), kind="stable")
    some = np.zeros(array.size, bool)
    some[at[order[: math.ceil(share * len(at) - 1e-9 * len(at))]]] = True
    return some.reshape(array.shape)


def sparsity(before: Module, after: Module, options: NM) -> tuple[Sparsity, ...]:
    """Return the promise: every weight pruned, its number of elements, and its share of zeros after the step."""
    chosen, _ = _choose(candidates(before, options.only, options.skip, ()), options.pattern.m)
    names = {weight.name for weight, _ in chosen}
    promised = tuple(
        (weight.name, weight.size, 1 - int(np.count_nonzero(weight.numpy())) / weight.size)
        for weight in after.weights()
        if weight.name in names
    )
    return (Sparsity(promised),) if promised else ()


def _choose(found: list[Candidate], of: int) -> tuple[list[tuple[Weight, int]], list[tuple[Weight, str]]]:
    """Return the weights to prune with their axes, and the others with the reasons."""
    chosen: list[tuple[Weight, int]] = []
    reasons: list[tuple[Weight, str]] = []
    for candidate in found:
        weight = candidate.weight
        if candidate.skipped is not None:
            reasons.append((weight, candidate.skipped))
            continue
        axis = reduction_axis(weight.value, len(weight.shape))
        if isinstance(axis, str):
            reasons.append((weight, axis))
        elif weight.shape[axis] % of:
            reasons.append((weight, f"{of} does not divide its {weight.shape[axis]} inputs"))
        else:
            chosen.append((weight, axis))
    return chosen, reasons
