"""The table's columns and cells as text, shared by every rendering."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mopt.build.rows import Latency, Row
from mopt.report.results import Results

MISSING = "–"


@dataclass(frozen=True)
class Column:
    """A column: its head and a cell for each row. Numbers stand to the right.

    `glued` columns are read together with the one before, and never parted from it.
    """

    head: str
    cells: tuple[str, ...]
    numeric: bool = True
    glued: bool = False


def columns(results: Results) -> tuple[Column, ...]:
    """Return the columns that have something to say, in a fixed order."""
    rows = results.rows
    found = [
        Column("pipeline", tuple(row.pipeline for row in rows), numeric=False),
        Column("target", tuple(row.target for row in rows), numeric=False),
        Column("params", tuple(count(row.parameters) for row in rows)),
        Column("non-zero", tuple(_share(row) for row in rows)),
        Column("MACs", tuple(count(row.macs) for row in rows)),
        Column("KiB", tuple(kibibytes(row.bytes) for row in rows)),
        Column("zip KiB", tuple(kibibytes(row.compressed) for row in rows)),
    ]
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        arrow = {"min": "↓", "max": "↑"}.get(results.goals.get(name, ""), "")
        found.append(Column(f"{name} {arrow}".rstrip(), tuple(_metric(row, name) for row in rows)))
    if any(row.requirements for row in rows):
        found.append(Column("require", tuple(_requirements(row) for row in rows), numeric=False))
    if any(row.status not in ("ok", "ended") for row in rows):
        found.append(Column("status", tuple(row.status for row in rows), numeric=False))
    for batch in sorted({batch for row in rows for batch in row.latency}):
        found.append(Column(f"ms, batch {batch}", tuple(_latency(row.latency.get(batch)) for row in rows)))
        if any(row.latency.get(batch) and row.latency[batch].ratio is not None for row in rows):
            found.append(Column("× base", tuple(_ratio(row.latency.get(batch)) for row in rows), glued=True))
    return tuple(found)


def count(value: int | None) -> str:
    """Write a count in the field's way: 1.492M."""
    if value is None:
        return MISSING
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:.3f}{unit}"
    return str(value)


def kibibytes(value: int | None) -> str:
    """Write bytes as KiB with thousands separated."""
    return MISSING if value is None else f"{value / 1024:,.0f}"


def _share(row: Row) -> str:
    if row.nonzero is None or not row.parameters:
        return MISSING
    return f"{row.nonzero / row.parameters:.1%}"


def milliseconds(value: float) -> str:
    """Write a time with three significant digits."""
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return MISSING
    spread = (latency.high - latency.low) / 2
    return f"{milliseconds(latency.median)} ±{spread:.2g}"


def _ratio(latency: Latency | None) -> str:
    if latency is None:
        return MISSING
    if latency.ratio is None:
        return "1"
    sign = {"slower": " slower", "no difference": " ≈"}.get(latency.verdict or "", "")
    return f"{latency.ratio:.2f}{sign}"


def _metric(row: Row, name: str) -> str:
    value = row.metrics.get(name)
    return MISSING if value is None else f"{value:.4f}"


def _requirements(row: Row) -> str:
    if not row.requirements:
        return ""
    marks = {True: "✓", False: "✗", None: "?"}
    return " ".join(marks[result.held] if result.asked else MISSING for result in row.requirements)


def footnotes(results: Results) -> Sequence[str]:
    """Say what a reader must know to read the table right."""
    notes: list[str] = []
    bases = dict.fromkeys(row.baseline for row in results.rows if row.baseline)
    if bases:
        notes.append(
            "ms: median of interleaved rounds ± half its 95% interval, in which 2.5% are the machine's own; × base: "
            f"time over that of {', '.join(bases)} on the same target (below 1 is faster; ≈ where the interval holds "
            "1, or it is within 1.5%, or 1.5 µs, of 1)."
        )
    for reason in dict.fromkeys(row.untimed for row in results.rows if row.untimed):
        who = dict.fromkeys(row.target for row in results.rows if row.untimed == reason)
        notes.append(f"{', '.join(who)}: not timed: {reason}")
    for judge in dict.fromkeys(row.judged_by for row in results.rows if row.judged_by):
        who = dict.fromkeys(row.target for row in results.rows if row.judged_by == judge)
        notes.append(f"{', '.join(who)}: metrics measured with {judge}.")
    for name, reason in results.skipped.items():
        notes.append(f"target `{name}` left out: {reason}")
    if results.synthetic:
        notes.append(f"made-up data (no real figures): {', '.join(results.synthetic)}")
    for row in results.rows:
        for result in row.requirements:
            if result.held is False and result.left is not None and result.right is not None:
                notes.append(f"✗ {row.pipeline}: `{result.text}`: {result.left:.6g} against {result.right:.6g}")
            elif result.held is not True and result.asked:
                notes.append(f"? {row.pipeline}: `{result.text}`: {result.reason}")
            elif not result.asked:
                notes.append(f"{MISSING} not asked: {result.reason}")
    notes.extend(
        _grouped(
            (row.pipeline, f"{row.failure.where}: {row.failure.message}")
            for row in results.rows
            if row.failure is not None
        )
    )
    notes.extend(_grouped((row.pipeline, note) for row in results.rows for note in row.notes if note != row.untimed))
    return tuple(dict.fromkeys(notes))


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Say once what holds of several pipelines."""
    who: dict[str, dict[str, None]] = {}
    for name, text in pairs:
        who.setdefault(text, {})[name] = None
    return [f"{', '.join(names)}: {text}" for text, names in who.items()]
