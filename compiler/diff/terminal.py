"""A diff on a terminal: the summary, what it did to the cost, then what changed, most telling first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from mopt.diff.model import Diff, Group, InterfaceChange, NodeChange, Operator, WeightChange, WeightFacts
from mopt.rendering.page import Column, Page, Table, clean, shorten
from mopt.rendering.quantities import change, count, magnitude, plural, share, size, small

if TYPE_CHECKING:
    from rich.console import Console

FOLDED = 12
"""Rows of a list before it is folded."""

_STYLES = {"Replaced": "bold yellow", "Removed": "bold red", "Added": "bold green"}

_T = TypeVar("_T")


def render(diff: Diff, console: Console, *, everything: bool) -> None:
    """Print a diff; `everything` unfolds all lists and tells renames one by one."""
    page = Page(console)
    page.heading(f"{clean(diff.before.label)} → {clean(diff.after.label)}")
    page.line(diff.summary())
    if diff.is_empty:
        return
    _totals(page, diff)
    _interface(page, diff.interface)
    for title, groups in (("Replaced", diff.replaced), ("Removed", diff.removed), ("Added", diff.added)):
        (_each_group if everything else _folded_groups)(page, title, groups)
    _attributes(page, diff.changed, everything)
    _rewired(page, diff.changed, everything)
    _values(page, diff, everything)
    _weights(page, diff, everything)
    _properties(page, diff, everything)
    _renames(page, diff, everything)
    _steps(page, diff, everything)


def _totals(page: Page, diff: Diff) -> None:
    before, after = diff.before, diff.after
    table = Table([Column(""), Column("before", "right"), Column("after", "right"), Column("change", "right")])
    table.rows = [
        (name, tell(was), tell(now), change(was, now))
        for name, was, now, tell in (
            ("nodes", before.nodes, after.nodes, count),
            ("Constant nodes", before.constants, after.constants, count),
            ("weights", before.weights, after.weights, count),
            ("parameters", before.parameters, after.parameters, count),
            ("non-zero", before.nonzero, after.nonzero, count),
            ("MACs", before.macs, after.macs, magnitude),
            ("weight bytes", before.bytes, after.bytes, size),
        )
        if was or now
    ]
    page.heading("Totals")
    page.table(table)
    matched = f"{count(diff.matched)} nodes are the same on both sides"
    page.line(f"{matched}: {count(diff.by_provenance)} by provenance, the rest by structure", "dim")


def _interface(page: Page, changes: Sequence[InterfaceChange]) -> None:
    if not changes:
        return
    page.heading("Interface", plural(len(changes), "change"))
    table = Table([Column(""), Column("what"), Column("before", flexible=True), Column("after", flexible=True)])
    for item in changes:
        before = f"{clean(item.before.name)}: {item.before}" if item.before else ""
        after = f"{clean(item.after.name)}: {item.after}" if item.after else ""
        if "moved" in item.what and item.what != ("moved",):
            before, after = f"{before} (no. {item.position_before})", f"{after} (no. {item.position_after})"
        table.rows.append((item.kind, ", ".join(item.what), before, after))
    page.table(table)


def _folded_groups(page: Page, title: str, groups: Sequence[Group]) -> None:
    if not groups:
        return
    page.heading(title, _sizes(groups), _STYLES[title])
    alike: dict[tuple[str, tuple[str, ...]], list[Group]] = {}
    for group in groups:
        alike.setdefault((group.pattern, group.by), []).append(group)
    ordered = sorted(alike.items(), key=lambda item: -len(item[1]))
    table = Table(
        [
            Column("", "right"),
            Column("", flexible=True, least=72),
            Column("for instance", droppable=2, flexible=True),
            Column("by", droppable=1, flexible=True),
        ]
    )
    for (pattern, by), members in ordered[:FOLDED]:
        example = _example(members[0].before or members[0].after)
        table.rows.append((f"{len(members)} ×", clean(pattern), example, _by(by)))
    page.table(table)
    _more(page, len(ordered) - FOLDED, "further pattern")


def _example(operators: Sequence[Operator]) -> str:
    return shorten(_name(operators[0]), 32)


def _each_group(page: Page, title: str, groups: Sequence[Group]) -> None:
    if not groups:
        return
    page.heading(title, _sizes(groups), _STYLES[title])
    for group in groups:
        sides = [" + ".join(f"{o.op} {_name(o)}" for o in side) for side in (group.before, group.after) if side]
        suffix = " → constant" if group.constant else " (duplicate)" if group.duplicate else ""
        page.line(" → ".join(sides) + suffix)
        ends = f"reads {_listed(group.inputs)}; gives {_listed(group.outputs)}"
        page.line(ends + (f"; by {_by(group.by)}" if group.by else ""), "dim", indent=4)


def _sizes(groups: Sequence[Group]) -> str:
    before, after = (
        sum(len(side) for side in sides)
        for sides in ([group.before for group in groups], [group.after for group in groups])
    )
    if not before or not after:
        return plural(before or after, "node")
    return f"{plural(len(groups), 'group')}, {count(before)} nodes → {count(after)}"


def _attributes(page: Page, changes: Iterable[NodeChange], everything: bool) -> None:
    rows = [
        (item.after.op, _name(item.after), entry.name, entry.before or "–", "→", entry.after or "–", _by(item.by))
        for item in changes
        for entry in item.attributes
    ]
    columns = [
        Column("node"), Column("", flexible=True), Column("attribute"), Column("before", "right", flexible=True),
        Column(""), Column("after", flexible=True), Column("by", droppable=1, flexible=True),
    ]  # fmt: skip
    _list(page, "Other attributes", columns, rows, "attribute", everything)


def _rewired(page: Page, changes: Iterable[NodeChange], everything: bool) -> None:
    rows = [
        (item.after.op, _name(item.after), entry.parameter, clean(entry.before or "–"), "→", clean(entry.after or "–"))
        for item in changes
        for entry in item.rewired
    ]
    columns = [
        Column("node"), Column("", flexible=True), Column("input"), Column("before", "right", flexible=True),
        Column(""), Column("after", flexible=True),
    ]  # fmt: skip
    _list(page, "Rewired", columns, rows, "input", everything)


def _values(page: Page, diff: Diff, everything: bool) -> None:
    rows = [(clean(item.after.name), str(item.before), "→", str(item.after), item.producer.op) for item in diff.values]
    columns = [
        Column("value", flexible=True), Column("before", "right"), Column(""), Column("after"),
        Column("made by", droppable=1),
    ]  # fmt: skip
    _list(page, "Shapes and element types", columns, rows, "value", everything)


def _weights(page: Page, diff: Diff, everything: bool) -> None:
    if not diff.weights_compared:
        page.heading("Weights", "contents not compared")
    # What matters first: large weights, then those that lost most.
    ordered = sorted(diff.weights, key=lambda item: (-max(item.before.bytes, item.after.bytes), item.after.name))
    columns = [
        Column("weight", flexible=True), Column("type"), Column("shape", droppable=3), Column("zeros", "right"),
        Column("distinct", "right", droppable=2), Column("max |Δ|", "right"), Column("rel", "right", droppable=1),
        Column("SNR dB", "right"), Column("bytes", "right", droppable=4), Column("read by", droppable=5),
    ]  # fmt: skip
    _list(page, "Weights changed", columns, [_weight(item) for item in ordered], "weight", everything)
    for title, facts in (("Weights removed", diff.weights_removed), ("Weights added", diff.weights_added)):
        rows = [
            (clean(item.name), item.dtype, _dims(item), size(item.bytes))
            for item in sorted(facts, key=lambda item: (-item.bytes, item.name))
        ]
        columns = [Column("", flexible=True), Column(""), Column(""), Column("", "right")]
        total = size(sum(item.bytes for item in facts))
        _list(page, title, columns, rows, "weight", everything, aside=total, most=5)
    if any(diff.moved):
        out_of, into = diff.moved
        told = [f"{plural(out_of, 'Constant node')} became {'an initializer' if out_of == 1 else 'initializers'}"]
        told = told if out_of else []
        if into:
            told.append(f"{plural(into, 'initializer')} became {'a Constant node' if into == 1 else 'Constant nodes'}")
        page.heading("Weights stored elsewhere")
        page.line("; ".join(told))


def _weight(item: WeightChange) -> tuple[str, ...]:
    before, after = item.before, item.after
    error = item.error
    exact = error is not None and not error.max_abs
    return (
        clean(before.name),
        _both(before.dtype, after.dtype),
        _both(_dims(before), _dims(after)),
        _both(*(_maybe(side.sparsity, share) for side in (before, after))),
        _both(_distinct(before), _distinct(after)),
        "" if error is None else "0" if exact else small(error.max_abs),
        "" if item.max_rel is None or exact else small(item.max_rel),
        "exact" if exact else "" if item.snr_db is None else f"{item.snr_db:.1f}",
        _both(size(before.bytes), size(after.bytes)),
        _example(item.users) if item.users else "",
    )


def _properties(page: Page, diff: Diff, everything: bool) -> None:
    families: dict[str, list[tuple[str, ...]]] = {}
    for item in diff.properties:
        family = item.name.partition(".")[0] if not everything else item.name
        row = (clean(item.name), clean(item.before or "–"), "→", clean(item.after or "–"))
        families.setdefault(family, []).append(row)
    rows: list[tuple[str, ...]] = []
    for family, members in families.items():
        if len(members) <= 2:
            rows += members
        else:
            rows.append((f"{clean(family)}.*", "", "", f"{len(members)} entries"))
    columns = [Column("", flexible=True), Column("", flexible=True), Column(""), Column("", flexible=True)]
    _list(page, "Model", columns, rows, "property", everything)


def _renames(page: Page, diff: Diff, everything: bool) -> None:
    if not diff.renames:
        return
    nodes = sum(rename.kind == "node" for rename in diff.renames)
    told = [plural(nodes, "node")] * bool(nodes)
    told += [plural(len(diff.renames) - nodes, "value")] * (len(diff.renames) > nodes)
    page.heading("Only renamed", ", ".join(told))
    if everything or diff.only_renames:
        rows = [(item.kind, clean(item.before), "→", clean(item.after)) for item in diff.renames]
        columns = [Column(""), Column("", flexible=True), Column(""), Column("", flexible=True)]
        shown = rows if everything else rows[:5]
        page.table(Table(columns, list(shown)))
        _more(page, len(rows) - len(shown), "name")


def _steps(page: Page, diff: Diff, everything: bool) -> None:
    rows = [(clean(step.by), plural(step.changes, "change")) for step in diff.steps]
    _list(page, "Done by", [Column("", flexible=True), Column("", "right")], rows, "step", everything)


def _list(
    page: Page,
    title: str,
    columns: list[Column],
    rows: Sequence[Sequence[str]],
    noun: str,
    everything: bool,
    *,
    aside: str = "",
    most: int = FOLDED,
) -> None:
    if not rows:
        return
    page.heading(title, ", ".join(text for text in (count(len(rows)), aside) if text))
    shown = rows if everything or len(rows) <= most + 1 else rows[:most]
    page.table(Table(columns, list(shown)))
    _more(page, len(rows) - len(shown), noun)


def _more(page: Page, number: int, noun: str) -> None:
    if number > 0:
        page.line(f"… {plural(number, f'more {noun}')} (--all shows them)", "dim")


def _both(before: str, after: str) -> str:
    return before if before == after else f"{before or '–'} → {after or '–'}"


def _maybe(value: _T | None, tell: Callable[[_T], str]) -> str:
    return "" if value is None else tell(value)


def _distinct(facts: WeightFacts) -> str:
    if facts.zeros is None:
        return ""
    return ">65,536" if facts.distinct is None else count(facts.distinct)


def _dims(facts: WeightFacts) -> str:
    return "×".join(map(str, facts.shape)) if facts.shape else "scalar"


def _name(operator: Operator) -> str:
    return clean(f"{operator.scope}/{operator.name}" if operator.scope else operator.name)


def _listed(names: Sequence[str]) -> str:
    return clean(", ".join(names)) if names else "nothing"


def _by(entries: Sequence[str]) -> str:
    """Return the rules; the steps they belong to are told at the end."""
    return clean(", ".join(entry.rpartition("/")[2] or entry for entry in entries))
