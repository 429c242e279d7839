"""Pruning by magnitude over the weights of a module."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from mopt.ir import Module
from mopt.ir.weights import Weight
from mopt.passes.contract import Note, PassError, PassResult, Sparsity
from mopt.passes.prune.prunable import Candidate, candidates, matches
from mopt.passes.prune.scope_notes import refuse_quantized
from mopt.passes.prune.smallest import smallest

if TYPE_CHECKING:
    from mopt.passes.prune.magnitude import Magnitude


def prune(module: Module, options: Magnitude, amount: float) -> PassResult:
    """Zero this share of what `options` is about, in place. See `Magnitude.run`."""
    refuse_quantized(module)
    found = candidates(module, options.only, options.skip, options.include)
    chosen = [candidate.weight for candidate in found if candidate.skipped is None]
    if not chosen:
        raise _nothing(found, options)
    for weight in chosen:
        _check(weight)
    groups = [chosen] if options.scope == "global" else [[weight] for weight in chosen]
    modified, total, zeros = False, 0, 0
    for group in groups:
        size = sum(weight.size for weight in group)
        count = share(amount, size)
        masks = smallest([weight.numpy for weight in group], count)
        for weight, mask in zip(group, masks, strict=True):
            array = weight.numpy()
            if np.any(array.reshape(-1)[mask]):
                weight.replace(np.where(mask.reshape(array.shape), array.dtype.type(0), array))
                modified = True
        total += size
        zeros += sum(weight.size - int(np.count_nonzero(weight.numpy())) for weight in group)
    notes = [Note(f"{zeros:,} of {total:,} elements in {len(chosen)} weights are zero ({zeros / total:.2%})")]
    return PassResult(module, modified, (*notes, *_skipped(found), *_idle(found, options)))


def share(amount: float, size: int) -> int:
    """Return how many of `size` elements make at least `amount` (a rounding error of the product is no element)."""
    return min(size, math.ceil(amount * size - 1e-9 * size))


def sparsity(before: Module, after: Module, options: Magnitude) -> tuple[Sparsity, ...]:
    """Return the promise: every weight pruned, its number of elements, and its share of zeros after the step."""
    names = {
        candidate.weight.name
        for candidate in candidates(before, options.only, options.skip, options.include)
        if candidate.skipped is None
    }
    promised = tuple(
        (weight.name, weight.size, 1 - int(np.count_nonzero(weight.numpy())) / weight.size)
        for weight in after.weights()
        if weight.name in names
    )
    return (Sparsity(promised),) if promised else ()


def _check(weight: Weight) -> None:
    array = weight.numpy()
    if not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "infinite values"
        readers = [node.name for node, _ in weight.users if node.name]
        where = f" of node `{readers[0]}`" if readers else ""
        raise PassError(
            f"weight `{weight.name}`{where} holds {what}, which have no magnitude to rank",
            node=readers[0] if readers else None,
            help=f'mend the model, or leave it out with skip=["{weight.name}"]',
        )


def _nothing(found: list[Candidate], options: Magnitude) -> PassError:
    names = list(dict.fromkeys(name for candidate in found for name in candidate.layers))
    if options.only and not any(matches(options.only, candidate.layers) for candidate in found):
        close = difflib.get_close_matches(options.only[0], names, n=3, cutoff=0.3) or names[:3]
        patterns = ", ".join(f"`{pattern}`" for pattern in options.only)
        return PassError(
            f"`only` matches no weight: {patterns}",
            help=f"layers and weights here: {', '.join(close)}" if close else "the module has no float weights",
        )
    reasons = Counter(candidate.skipped for candidate in found).most_common(3)
    why = "; ".join(f"{count} left out: {reason}" for reason, count in reasons) or "it has no float weights"
    return PassError(
        f"nothing here can be pruned ({why})", help="`mopt passes prune.magnitude` says which weights are pruned"
    )


def _skipped(found: list[Candidate]) -> list[Note]:
    """One note a reason, the weights' elements in it."""
    notes = []
    for reason in dict.fromkeys(candidate.skipped for candidate in found if candidate.skipped is not None):
        group = [candidate.weight for candidate in found if candidate.skipped == reason]
        size = sum(weight.size for weight in group)
        kind = "weight" if len(group) == 1 else "weights"
        names = tuple(weight.name for weight in group)
        notes.append(Note(f"{len(group)} {kind} ({size:,} elements) left alone: {reason}", nodes=names))
    return notes


def _idle(found: list[Candidate], options: Magnitude) -> list[Note]:
    """A warning for every pattern that fits nothing: a layer may have been renamed."""
    notes = []
    for option, patterns in (("only", options.only), ("skip", options.skip)):
        for pattern in patterns:
            if not any(matches((pattern,), candidate.layers) for candidate in found):
                notes.append(Note(f'`{option}=["{pattern}"]` matches no weight here', severity="warning"))
    return notes
