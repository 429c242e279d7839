"""Pruning by channels over the coupled groups of a module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from mopt.analysis.codebook import codebooks
from mopt.analysis.coupling import Couplings, Group, collect, couplings
from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassError, PassResult
from mopt.passes.prune.channels_cut import cut, kept_masks
from mopt.passes.prune.channels_estimate import Estimate
from mopt.passes.prune.channels_importance import importance
from mopt.passes.prune.channels_search import by_cost, by_time
from mopt.passes.prune.channels_select import Atoms, Ranked, select
from mopt.passes.prune.prunable import matches
from mopt.passes.prune.structured_notes import groups_left_alone, idle_globs, names_of, nothing_to_cut

if TYPE_CHECKING:
    from mopt.passes.prune.channels import Channels

Choice = Callable[[Couplings, Sequence[Group]], list[Group]]
"""Which groups a pass is about."""


def prune(
    module: Module, options: Channels, context: Context, *, about: Choice | None = None, what: str = "channels"
) -> PassResult:
    """Cut what `options` asks for, in place. See `Channels.run`.

    Args:
        about: the groups to look at; none means all.
        what: what is cut, for messages.
    """
    if options.criterion == "taylor":
        raise PassError(
            "criterion `taylor` needs gradients, which this version can't compute",
            help="use l1, l2, fpgm, bn or random",
        )
    if options.amount >= 1:
        raise PassError("an amount of 100% would remove whole layers", help="ask for less than 100%")
    stored = [book.name for book in codebooks(module)]
    if stored:
        raise PassError(
            f"{len(stored)} weights are stored as codebooks, `{stored[0]}` the first, which can't be cut",
            help=f"cut {what} before clustering, or put `cluster.expand` before this step",
        )
    coupled = couplings(module)
    groups = collect(coupled)
    if about is not None:
        groups = about(coupled, groups)
    chosen, reasons = _chosen(groups, options, what)
    if not chosen:
        raise nothing_to_cut(groups, options.only, reasons, what)
    ranked = []
    for group in chosen:
        scores = importance(group, options.criterion, context.seed)
        if scores is None:
            reasons.append((group, f"nothing for criterion `{options.criterion}` to go by"))
        else:
            ranked.append(Ranked(group, scores))
    if not ranked:
        help = "batch normalisations may have been folded: put prune.channels before simplify"
        raise PassError(
            f"criterion `{options.criterion}` finds nothing to go by in any group",
            help=help if options.criterion == "bn" else "use l1",
        )
    taken, found = _taken(module, coupled, ranked, options, context)
    atoms = np.concatenate(taken)
    count, total = len(atoms), sum(one.group.channels for one in ranked)
    found += _cut(module, coupled, atoms, options, context)
    touched = sum(len(part) > 0 for part in taken)
    notes = (
        Note(f"{count:,} of {total:,} {what} cut ({count / total:.2%}), in {touched} of {len(ranked)} groups"),
        *found,
        *groups_left_alone(reasons, what),
        *idle_globs(groups, options.only, options.skip, what),
    )
    return PassResult(module, count > 0, notes)


def _chosen(groups: Sequence[Group], options: Channels, what: str) -> tuple[list[Group], list[tuple[Group, str]]]:
    chosen, reasons = [], []
    for group in groups:
        names = names_of(group)
        if group.reason is not None:
            reasons.append((group, group.reason))
        elif options.only and not matches(options.only, names):
            reasons.append((group, "not named by `only`"))
        elif matches(options.skip, names):
            reasons.append((group, "named by `skip`"))
        elif group.channels == 1:
            reasons.append((group, f"it has one {what[:-1]} only"))
        else:
            chosen.append(group)
    return chosen, reasons


def _taken(
    module: Module, coupled: Couplings, ranked: list[Ranked], options: Channels, context: Context
) -> tuple[list[Atoms], list[Note]]:
    def at(share: float) -> list[Atoms]:
        return select(ranked, share, options.scope, options.round_to)

    if options.of == "channels" or options.amount <= 0:
        return at(options.amount), []
    if options.of == "latency":
        from mopt.passes.prune.latency import Stopwatch

        with contextlib.closing(Stopwatch(module, context)) as stopwatch:
            taken, note = by_time(at, stopwatch.measure, options.amount)
        return taken, [note]
    what = "parameters" if options.of == "parameters" else "MACs"
    return by_cost(at, Estimate(module, coupled, options.of, context.bindings), options.amount, what), []


def _cut(module: Module, coupled: Couplings, atoms: Atoms, options: Channels, context: Context) -> list[Note]:
    """Cut, and where the options name calibration data make up for it; return what to say of that."""
    if options.data is None or not len(atoms):
        cut(module, coupled, atoms)
        return []
    from mopt.passes.prune.correct import correct
    from mopt.passes.quantize.calibration import open_split

    split = open_split(module, options.data, context)
    original = module.clone()
    kept = {value.name or "": lost for value, lost in kept_masks(coupled, atoms).items()}
    cut(module, coupled, atoms)
    return correct(module, original, kept, split, context, kernels=options.correct == "reconstruct")
