"""Own rules and opaque tools in turn, until none of them makes the graph smaller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from mopt.ir import Module
from mopt.passes.simplify.tools.exchange import answered_nodes, pack, unpack
from mopt.passes.simplify.tools.process import ToolError, tool_process
from mopt.passes.simplify.tools.trial import (
    NODE_LIMIT,
    answer,
    node_count,
    same_outputs,
    start,
    weight_bytes,
)
from mopt.rewrite import Rule, apply_rules

_ROUNDS: Final = 4
_LIFT_ABOVE: Final = 16 << 10
"""Bytes from which a weight stays behind: the rules have folded what can be folded into weights already."""


@dataclass
class Outcome:
    """What became of a module."""

    module: Module
    modified: bool = False
    notes: list[tuple[str, Literal["info", "warning"]]] = field(default_factory=list)


def simplify(
    module: Module,
    rules: Sequence[Rule],
    tools: Sequence[str],
    *,
    max_growth: int,
    timeout: float,
    seed: int = 0,
    bindings: Mapping[str, int] | None = None,
) -> Outcome:
    """Simplify a module (which is changed, unless a tool's copy takes its place) to a fixed point.

    The tools run side by side on the same graph. Only one that leaves fewer nodes is worth verifying; what it made
    is then run through the rules and shown to the tools again, at most four times.
    """
    for tool in tools:
        tool_process(tool).start()  # importing them takes about as long as the rules
    outcome = Outcome(module)
    counts: dict[str, int] = {}
    _apply(outcome, rules, max_growth, counts)
    remaining = list(tools) if node_count(module) <= NODE_LIMIT else []
    for _ in range(_ROUNDS):
        if not remaining or not _try_tools(outcome, remaining, timeout, seed, bindings):
            break
        _apply(outcome, rules, max_growth, counts)
    if counts:
        listed = ", ".join(f"{rule} {count}×" for rule, count in sorted(counts.items(), key=lambda item: -item[1]))
        outcome.notes.insert(0, (f"applied {listed}", "info"))
    return outcome


def _apply(outcome: Outcome, rules: Sequence[Rule], max_growth: int, counts: dict[str, int]) -> None:
    trace = apply_rules(outcome.module, rules, by="simplify.rules", max_growth=max_growth)
    outcome.modified |= bool(trace.applied)
    for rule, count in trace.counts.items():
        counts[rule] = counts.get(rule, 0) + count
    if not trace.converged:
        outcome.notes.append(("the rules stopped before a fixed point: two undo each other's work", "warning"))


def _try_tools(
    outcome: Outcome, remaining: list[str], timeout: float, seed: int, bindings: Mapping[str, int] | None
) -> bool:
    """Let every tool that is still in the game try; adopt the first result that helps. Say whether one did."""
    before, parcel, helped = node_count(outcome.module), pack(outcome.module, _LIFT_ABOVE), False
    # What a tool counts: the compressed constants stayed behind.
    threshold = before - len(parcel.fills)
    trials = [start(tool, outcome.module, parcel) for tool in remaining]
    for trial in trials:
        tool = trial.tool
        try:
            data = answer(trial, timeout)
            after = answered_nodes(data)
            if after > threshold:
                outcome.notes.append((f"{tool} was dropped: it made {after} nodes of {threshold}", "info"))
                remaining.remove(tool)
            if helped or after >= threshold:
                continue
            result = unpack(data, parcel, outcome.module, f"simplify.{tool}")
        except ToolError as error:
            outcome.notes.append((f"{tool} was dropped: {error}", "warning"))
            remaining.remove(tool)
            continue
        size, grown = weight_bytes(outcome.module), weight_bytes(result)
        problem = ""
        if grown > size + max(size // 10, 1 << 20):
            problem = f"it made {grown} bytes of constants of {size}"
        problem = problem or same_outputs(outcome.module, result, seed=seed, bindings=bindings)
        if problem:
            outcome.notes.append((f"{tool} was dropped: {problem}", "warning"))
            remaining.remove(tool)
            continue
        outcome.notes.append((f"{tool} made {after} nodes of {threshold}", "info"))
        outcome.module, outcome.modified, helped = result, True, True
    return helped
