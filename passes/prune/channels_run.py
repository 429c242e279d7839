"""Pruning by channels over the coupled groups of a module."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from mopt.analysis.codebook import codebooks
from mopt.analysis.coupling import Couplings, Group, collect, couplings
from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassError, PassResult
from mopt.passes.prune.channels_cut import cut, kept_masks
from mopt.passes.prune.channels_estimate import Estimate
from mopt.passes.prune.channels_importance import Scores, importance
from mopt.passes.prune.channels_search import by_cost, by_time
from mopt.passes.prune.channels_select import Atoms, Ranked, select
from mopt.passes.prune.prunable import matches
from mopt.passes.prune.scope_notes import refuse_quantized
from mopt.passes.prune.structured_notes import groups_left_alone, idle_globs, names_of, nothing_to_cut
from mopt.runtime.data.splits import Samples

if TYPE_CHECKING:
    from mopt.passes.prune.channels import Channels

_CORRECTED: Final = 128
"""Samples of training data that layers are refitted on, spread evenly: more make hardly a better fit, and take time."""

Choice = Callable[[Couplings, Sequence[Group]], list[Group]]
"""Which groups a pass is about."""


@dataclass(frozen=True)
class Goal:
    """How much to cut, and of what.

    Attributes:
        amount: the share that is to be gone, of the model before the first step.
        of: what it is a share of (see `Channels.of`).
        channels: how many each group had before the first step, by name; those not named have what they had.
        cost: parameters or MACs before the first step; None: as the module has now.
    """

    amount: float
    of: str
    channels: Mapping[str, int] = field(default_factory=dict)
    cost: float | None = None


@dataclass(frozen=True)
class Found:
    """What there is to cut: groups with their importance; all groups; those left alone, with the reason."""

    coupled: Couplings
    ranked: list[Ranked]
    groups: list[Group]
    reasons: list[tuple[Group, str]]


def prune(
    module: Module,
    options: Channels,
    context: Context,
    *,
    goal: Goal | None = None,
    about: Choice | None = None,
    what: str = "channels",
) -> PassResult:
    """Cut at once, in place. See `Channels.run`.

    Args:
        goal: how much; by default what `options` says.
        about: the groups to look at; none means all.
        what: what is cut, for messages.
    """
    goal = goal or Goal(options.amount, options.of)
    found = find(module, options, context, goal=goal, about=about, what=what)
    taken, told = _taken(module, found, options, context, goal)
    atoms = np.concatenate(taken)
    count, total = len(atoms), sum(one.group.channels for one in found.ranked)
    told += _cut(module, found.coupled, atoms, options, context)
    touched = sum(len(part) > 0 for part in taken)
    notes = (
        Note(f"{count:,} of {total:,} {what} cut ({count / total:.2%}), in {touched} of {len(found.ranked)} groups"),
        *told,
        *groups_left_alone(found.reasons, what),
        *idle_globs(found.groups, options.only, options.skip, what),
    )
    return PassResult(module, count > 0, notes)


def find(
    module: Module,
    options: Channels,
    context: Context,
    *,
    goal: Goal,
    about: Choice | None = None,
    what: str = "channels",
) -> Found:
    """Find and rank what can be cut. For the arguments see `prune`."""
    refuse_quantized(module)
    if goal.amount >= 1:
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
    chosen, reasons = _chosen(groups, options, goal, what)
    if not chosen:
        raise nothing_to_cut(groups, options.only, reasons, what)
    ranked = []
    for group, scores in zip(chosen, _scores(module, chosen, options, context), strict=True):
        if scores is None:
            reasons.append((group, f"nothing for criterion `{options.criterion}` to go by"))
        else:
            ranked.append(Ranked(group, scores, _whole(group, goal) - group.channels))
    if not ranked:
        help = "batch normalisations may have been folded: put prune.channels before simplify"
        raise PassError(
            f"criterion `{options.criterion}` finds nothing to go by in any group",
            help=help if options.criterion == "bn" else "use l1",
        )
    return Found(coupled, ranked, groups, reasons)


def _scores(module: Module, groups: Sequence[Group], options: Channels, context: Context) -> list[Scores | None]:
    if options.criterion != "taylor":
        return [importance(group, options.criterion, context.seed) for group in groups]
    from mopt.passes.tune.training import training_errors

    with training_errors():
        from mopt.passes.prune.channels_taylor import taylor

        return taylor(module, groups, options, context)


def _whole(group: Group, goal: Goal) -> int:
    """Return how many channels a group had before the first step."""
    return max(group.channels, goal.channels.get(group.name, 0))


def _chosen(
    groups: Sequence[Group], options: Channels, goal: Goal, what: str
) -> tuple[list[Group], list[tuple[Group, str]]]:
    chosen, reasons = [], []
    for group in groups:
        names = names_of(group)
        if group.reason is not None:
            reasons.append((group, group.reason))
        elif options.only and not matches(options.only, names):
            reasons.append((group, "not named by `only`"))
        elif matches(options.skip, names):
            reasons.append((group, "named by `skip`"))
        elif _whole(group, goal) == 1:
            reasons.append((group, f"it has one {what[:-1]} only"))
        else:
            chosen.append(group)
    return chosen, reasons


def _taken(
    module: Module, found: Found, options: Channels, context: Context, goal: Goal
) -> tuple[list[Atoms], list[Note]]:
    def at(share: float) -> list[Atoms]:
        return select(found.ranked, share, options.scope, options.round_to)

    if goal.of == "channels" or goal.amount <= 0:
        return at(goal.amount), []
    if goal.of == "latency":
        from mopt.passes.prune.latency import Stopwatch

        with contextlib.closing(Stopwatch(module, context)) as stopwatch:
            cut_at = by_time(at, stopwatch.measure, goal.amount)
        return cut_at.taken, [cut_at.note]
    what = "parameters" if goal.of == "parameters" else "MACs"
    estimate = Estimate(module, found.coupled, goal.of, context.bindings, goal.cost)
    return by_cost(at, estimate, goal.amount, what), []


def _cut(module: Module, coupled: Couplings, atoms: Atoms, options: Channels, context: Context) -> list[Note]:
    """Cut, and where the options name calibration data make up for it; return what to say of that."""
    if options.data is None or options.correct == "none" or not len(atoms):
        cut(module, coupled, atoms)
        return []
    from mopt.passes.prune.correct import correct
    from mopt.passes.quantize.calibration import open_split

    split = open_split(module, options.data, context)
    if options.loss is not None and len(split) > _CORRECTED:
        step = len(split) / _CORRECTED
        places = {int(number * step) for number in range(_CORRECTED)}
        some = [sample for number, sample in enumerate(split) if number in places]
        split = Samples(some, len(some), str(options.data))
    original = module.clone()
    kept = {value.name or "": lost for value, lost in kept_masks(coupled, atoms).items()}
    cut(module, coupled, atoms)
    return correct(module, original, kept, split, context, kernels=options.correct == "reconstruct")
