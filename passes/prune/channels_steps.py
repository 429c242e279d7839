"""Pruning by channels in steps, each of which cuts a share more and trains."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mopt.analysis.cost import cost
from mopt.analysis.coupling import groups
from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassResult
from mopt.passes.prune.channels_run import Goal, find, prune
from mopt.passes.prune.channels_search import by_time
from mopt.passes.prune.channels_select import Atoms, select
from mopt.passes.prune.gradual_run import gradually

if TYPE_CHECKING:
    from mopt.passes.prune.channels import Channels


def prune_in_steps(module: Module, options: Channels, context: Context) -> PassResult:
    """Cut `module` in steps, training after each. See `Channels.run`.

    Shares are those of the whole model, so that the last step leaves the sizes that one cut would leave.
    """
    amount, of = float(options.amount), str(options.of)
    notes: tuple[Note, ...] = ()
    if of == "latency":
        # Timed once, on the whole model: the share of the channels found is what the steps go to.
        amount, note = _timed(module, options, context)
        of, notes = "channels", (note,)
    sizes = {group.name: group.channels for group in groups(module)}
    counted = cost(module, context.bindings)
    whole = {"parameters": counted.parameters, "macs": counted.macs}.get(of)

    def reach(current: Module, share: float, part: Context) -> PassResult:
        return prune(current, options, part, goal=Goal(share * amount, of, sizes, whole))

    result = gradually(module, options, context, reach, lambda before, after: ())
    return PassResult(result.module, result.modified, (*notes, *result.notes))


def _timed(module: Module, options: Channels, context: Context) -> tuple[float, Note]:
    from mopt.passes.prune.latency import Stopwatch

    found = find(module, options, context, goal=Goal(options.amount, "latency"))

    def at(share: float) -> list[Atoms]:
        return select(found.ranked, share, options.scope, options.round_to)

    with contextlib.closing(Stopwatch(module, context)) as stopwatch:
        cut = by_time(at, stopwatch.measure, options.amount)
    return cut.share, cut.note
