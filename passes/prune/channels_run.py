"""Pruning by channels over the coupled groups of a module."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from mopt.analysis.coupling import Couplings, Group, collect, couplings
from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassError, PassResult
from mopt.passes.prune.channels_cut import cut
from mopt.passes.prune.channels_estimate import Estimate
from mopt.passes.prune.channels_importance import importance
from mopt.passes.prune.channels_select import Atoms, Ranked, select
from mopt.passes.prune.prunable import matches

if TYPE_CHECKING:
    from mopt.passes.prune.channels import Channels

_STEPS = 12
"""Of the search for the share of channels that takes the share of MACs: it is found to 1/4096."""


def prune(module: Module, options: Channels, context: Context) -> PassResult:
    """Cut what `options` asks for, in place. See `Channels.run`."""
    if options.criterion == "taylor":
        raise PassError(
            "criterion `taylor` needs gradients, which this version can't compute",
            help="use l1, l2, fpgm, bn or random",
        )
    if options.amount >= 1:
        raise PassError("an amount of 100% would remove whole layers", help="ask for less than 100%")
    coupled = couplings(module)
    groups = collect(coupled)
    chosen, reasons = _chosen(groups, options)
    if not chosen:
        raise _nothing(groups, options, reasons)
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
    taken = _taken(module, coupled, ranked, options, context)
    atoms = np.concatenate(taken)
    count, total = len(atoms), sum(one.group.channels for one in ranked)
    cut(module, coupled, atoms)
    touched = sum(len(part) > 0 for part in taken)
    notes = [Note(f"{count:,} of {total:,} channels cut ({count / total:.2%}), in {touched} of {len(ranked)} groups")]
    return PassResult(module, count > 0, (*notes, *_left_alone(reasons), *_idle(groups, options)))


def _taken(
    module: Module, coupled: Couplings, ranked: list[Ranked], options: Channels, context: Context
) -> list[Atoms]:
    def at(share: float) -> list[Atoms]:
        return select(ranked, share, options.scope, options.round_to)

    if options.of == "channels" or options.amount <= 0:
        return at(options.amount)
    estimate = Estimate(module, coupled, options.of, context.bindings)
    return _search(at, estimate, options)


def _search(at: Callable[[float], list[Atoms]], estimate: Estimate, options: Channels) -> list[Atoms]:
    """Return the smallest cut found that saves what was asked for."""
    what = "parameters" if options.of == "parameters" else "MACs"
    low, high, best = 0.0, 1.0, at(1.0)
    most = estimate.saved(np.concatenate(best))
    if most < options.amount:
        raise PassError(
            f"at most {most:.1%} of the {what} can be cut with one channel left in every group, not {options.amount}",
            help="`mopt show --groups` lists what can't be cut, and why",
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        taken = at(middle)
        if estimate.saved(np.concatenate(taken)) >= options.amount:
            high, best = middle, taken
        else:
            low = middle
    return best


def _names(group: Group) -> tuple[str, ...]:
    weights = (member.value.name or "" for member in group.members if member.makes)
    return (*group.layers, *weights)


def _chosen(groups: list[Group], options: Channels) -> tuple[list[Group], list[tuple[Group, str]]]:
    chosen, reasons = [], []
    for group in groups:
        names = _names(group)
        if group.reason is not None:
            reasons.append((group, group.reason))
        elif options.only and not matches(options.only, names):
            reasons.append((group, "not named by `only`"))
        elif matches(options.skip, names):
            reasons.append((group, "named by `skip`"))
        elif group.channels == 1:
            reasons.append((group, "it has one channel only"))
        else:
            chosen.append(group)
    return chosen, reasons


def _nothing(groups: list[Group], options: Channels, reasons: list[tuple[Group, str]]) -> PassError:
    names = list(dict.fromkeys(name for group in groups for name in group.layers))
    if options.only and not any(matches(options.only, _names(group)) for group in groups):
        close = difflib.get_close_matches(options.only[0], names, n=3, cutoff=0.3) or names[:3]
        patterns = ", ".join(f"`{pattern}`" for pattern in options.only)
        return PassError(
            f"`only` matches no layer with channels: {patterns}",
            help=f"layers here: {', '.join(close)}" if close else "no layer here makes channels",
        )
    counts = Counter(reason for _, reason in reasons).most_common(3)
    why = "; ".join(f"{reason} ({count} groups)" for reason, count in counts) or "no layer makes channels"
    return PassError(f"no channels here can be cut: {why}", help="`mopt show --groups` lists the groups")


def _left_alone(reasons: list[tuple[Group, str]]) -> list[Note]:
    """One note a kind of reason (nodes' names apart), with the groups."""
    kinds: dict[str, list[tuple[Group, str]]] = {}
    for group, reason in reasons:
        kinds.setdefault(re.sub(r"`[^`]*`", "`…`", reason), []).append((group, reason))
    notes = []
    for kind, found in kinds.items():
        shown = found[0][1] if len({reason for _, reason in found}) == 1 else kind
        channels = sum(group.channels for group, _ in found)
        what = "group" if len(found) == 1 else "groups"
        names = tuple(group.name for group, _ in found)
        notes.append(Note(f"{len(found)} {what} ({channels:,} channels) left alone: {shown}", nodes=names))
    return notes


def _idle(groups: list[Group], options: Channels) -> list[Note]:
    """A warning for every pattern that fits nothing: a layer may have been renamed."""
    return [
        Note(f'`{option}=["{pattern}"]` matches no layer with channels', severity="warning")
        for option, patterns in (("only", options.only), ("skip", options.skip))
        for pattern in patterns
        if not any(matches((pattern,), _names(group)) for group in groups)
    ]
