"""What a pass over coupled groups says of those it left alone, and of patterns that fit nothing."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence

from mopt.analysis.coupling import Group
from mopt.passes.contract import Note, PassError
from mopt.passes.prune.prunable import matches

Reasons = Sequence[tuple[Group, str]]


def names_of(group: Group) -> tuple[str, ...]:
    """Return what globs are matched against: the layers that make a group, and their weights."""
    weights = (member.value.name or "" for member in group.members if member.makes)
    return (*group.layers, *weights)


def nothing_to_cut(groups: Sequence[Group], only: Sequence[str], reasons: Reasons, what: str) -> PassError:
    """Return the error of a pass that finds no group to cut (`what` is what it cuts: `channels`, `heads`)."""
    names = list(dict.fromkeys(name for group in groups for name in group.layers))
    if only and not any(matches(only, names_of(group)) for group in groups):
        close = difflib.get_close_matches(only[0], names, n=3, cutoff=0.3) or names[:3]
        patterns = ", ".join(f"`{pattern}`" for pattern in only)
        return PassError(
            f"`only` matches no layer with {what}: {patterns}",
            help=f"layers here: {', '.join(close)}" if close else f"no layer here makes {what}",
        )
    counts = Counter(reason for _, reason in reasons).most_common(3)
    why = "; ".join(f"{reason} ({count} groups)" for reason, count in counts) or f"no layer makes {what}"
    return PassError(f"no {what} here can be cut: {why}", help="`mopt show --groups` lists the groups")


def groups_left_alone(reasons: Reasons, what: str) -> list[Note]:
    """Return one note a kind of reason (nodes' names apart), with the groups."""
    kinds: dict[str, list[tuple[Group, str]]] = {}
    for group, reason in reasons:
        kinds.setdefault(re.sub(r"`[^`]*`", "`…`", reason), []).append((group, reason))
    notes = []
    for kind, found in kinds.items():
        shown = found[0][1] if len({reason for _, reason in found}) == 1 else kind
        count = sum(group.channels for group, _ in found)
        groups = "group" if len(found) == 1 else "groups"
        names = tuple(group.name for group, _ in found)
        notes.append(Note(f"{len(found)} {groups} ({count:,} {what}) left alone: {shown}", nodes=names))
    return notes


def idle_globs(groups: Sequence[Group], only: Sequence[str], skip: Sequence[str], what: str) -> list[Note]:
    """Return a warning for every pattern that fits nothing: a layer may have been renamed."""
    return [
        Note(f'`{option}=["{pattern}"]` matches no layer with {what}', severity="warning")
        for option, patterns in (("only", only), ("skip", skip))
        for pattern in patterns
        if not any(matches((pattern,), names_of(group)) for group in groups)
    ]
