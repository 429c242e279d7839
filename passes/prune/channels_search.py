"""Which share of the channels to cut so that parameters, MACs or measured time go down by what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from mopt.passes.contract import Note, PassError
from mopt.passes.prune.channels_estimate import Estimate
from mopt.passes.prune.channels_select import Atoms

if TYPE_CHECKING:
    from mopt.passes.prune.latency import Measured

_STEPS: Final = 12
"""Of the search for the share of channels that takes the share of MACs: it is found to 1/4096."""
_GRID: Final = 32
"""Shares of channels that are timed are multiples of 1/32: what two runs measure differs, what they choose hardly."""
_HELP: Final = "`mopt show --groups` lists what can't be cut, and why"


def by_cost(at: Callable[[float], list[Atoms]], estimate: Estimate, amount: float, what: str) -> list[Atoms]:
    """Return the smallest cut found that saves the amount of parameters or MACs.

    Raises:
        PassError: even one channel left in every group does not save as much.
    """
    low, high, best = 0.0, 1.0, at(1.0)
    most = estimate.saved(np.concatenate(best))
    if most < amount:
        raise PassError(
            f"at most {most:.1%} of the {what} can be cut with one channel left in every group, not {amount:.3g}",
            help=_HELP,
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        taken = at(middle)
        if estimate.saved(np.concatenate(taken)) >= amount:
            high, best = middle, taken
        else:
            low = middle
    return best


@dataclass(frozen=True)
class TimedCut:
    """A cut found by timing: the share of the channels, what goes of each group, and what was measured."""

    share: float
    taken: list[Atoms]
    note: Note


def by_time(at: Callable[[float], list[Atoms]], measure: Callable[[Atoms], Measured], amount: float) -> TimedCut:
    """Return the smallest cut found whose measured time is down by the amount, and what was measured.

    A cut counts only where the whole confidence interval of its ratio does. Time does not fall evenly with channels,
    so that a smaller share than the one found may do as well.

    Raises:
        PassError: even the largest share does not save as much.
    """
    low, high = 0, _GRID
    tried: dict[int, tuple[list[Atoms], Measured]] = {}

    def holds(number: int) -> bool:
        taken = at(number / _GRID)
        tried[number] = (taken, measure(np.concatenate(taken)))
        return tried[number][1].high <= 1 - amount

    if not holds(high):
        least = tried[high][1]
        raise PassError(
            f"with one channel left in every group a run still takes {least.ratio:.2f} × the time "
            f"({least.low:.2f} to {least.high:.2f}); {1 - amount:.3g} × was asked for",
            help=_HELP,
        )
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    taken, found = tried[high]
    note = Note(
        f"{high}/{_GRID} of the channels: measured {found.ratio:.2f} × the time before ({found.low:.2f} to "
        f"{found.high:.2f}), {found.milliseconds:.3g} ms a run, onnxruntime on one thread of this machine's CPU; "
        f"{len(tried)} cuts were timed, and another machine may choose another"
    )
    return TimedCut(high / _GRID, taken, note)
