"""What a reader of the report should know of a conversion to 16 bits."""

from __future__ import annotations

from collections import Counter

from mopt.passes.contract import Note
from mopt.passes.convert.half_choice import Choice
from mopt.passes.convert.half_rewrite import Outcome


def notes(choice: Choice, outcome: Outcome) -> tuple[Note, ...]:
    """Say how much became float16, what did not and why, and which constants lost elements."""
    if not outcome.modified:
        return (Note("nothing here computes in float32; the module is as it was"),)
    found = [
        Note(
            f"{len(choice.half)} nodes and {outcome.converted:,} constant elements are {choice.kind.name}; "
            f"{len(choice.kept) + len(choice.unsupported)} nodes stay float32; {outcome.casts} casts between them"
        )
    ]
    for reason, count in Counter(choice.kept.values()).most_common():
        nodes = tuple(node.name or "" for node, why in choice.kept.items() if why == reason)
        found.append(Note(f"{_nodes(count)} kept in float32: {reason}", nodes=nodes))
    for operator, count in Counter(choice.unsupported.values()).most_common():
        nodes = tuple(node.name or "" for node, kind in choice.unsupported.items() if kind == operator)
        found.append(
            Note(f"{_nodes(count)} kept in float32: {operator} has no {choice.kind.name} form here", nodes=nodes)
        )
    if outcome.vanished:
        total = sum(outcome.vanished.values())
        names = ", ".join(f"`{name}` ({count:,})" for name, count in list(outcome.vanished.items())[:5])
        more = "" if len(outcome.vanished) <= 5 else f" and {len(outcome.vanished) - 5} more"
        message = f"{total:,} non-zero elements are too small for {choice.kind.name} and became zero: {names}{more}"
        found.append(Note(message, severity="warning" if total > outcome.converted * 0.01 else "info"))
    return tuple(found)


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
