"""The results table on a terminal. Columns that do not fit side by side go into further blocks of the same rows.

A name that leaves little room for figures (a variant's, with its choices) runs over lines; figures are never cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mopt.report.results import Results
from mopt.report.table import Column, columns, footnotes

if TYPE_CHECKING:
    from rich.console import Console

_KEYS = 2
"""The first columns (pipeline, target) name a row, and head every block."""

_GAP = 3
_LEAST_NAME = 16
_MOST_NAME = 0.4
"""Share of the width: more would leave two columns of figures to a block."""


def print_results(results: Results, console: Console) -> None:
    """Print the table and its footnotes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if results.rows:
        console.print(Text(results.title or results.recipe, style="bold"))
    shown = columns(results)
    room = _room_for_names(shown, console.width)
    for block in _blocks(shown, console.width, room) if results.rows else ():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        name, *others = block
        table.add_column(name.head, max_width=room, overflow="fold")
        for column in others:
            table.add_column(column.head, justify="right" if column.numeric else "left", no_wrap=True)
        for index, row in enumerate(results.rows):
            cells = (Text(column.cells[index]) for column in others)
            table.add_row(Text(_broken(name.cells[index], room)), *cells, style="" if row.status == "ok" else "red")
        console.print(table)
    for note in footnotes(results):
        console.print(Text(note, style="dim"))
    if results.output:
        console.print(Text(f"models, reports and diffs: {results.output}"))


def _broken(name: str, room: int) -> str:
    """Give each choice of a variant a line of its own where its name is too long for one."""
    from rich.cells import cell_len

    return name if cell_len(name) <= room else name.replace("[", "[\n  ", 1).replace(", ", ",\n  ")


def _room_for_names(shown: Sequence[Column], width: int) -> int:
    """Return how wide names may be: the widest group of columns fits beside them, and mostly more."""
    widest = max((sum(map(_width, group)) for group in _groups(shown[_KEYS:])), default=0)
    return max(_LEAST_NAME, min(round(_MOST_NAME * width), width - _GAP - widest - sum(map(_width, shown[1:_KEYS]))))


def _groups(rest: Sequence[Column]) -> list[list[Column]]:
    groups: list[list[Column]] = []
    for column in rest:
        if column.glued and groups:
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _blocks(shown: Sequence[Column], width: int, room: int) -> Iterator[tuple[Column, ...]]:
    keys = tuple(shown[:_KEYS])
    used = min(_width(keys[0]), room + _GAP) + sum(map(_width, keys[1:]))
    block: list[Column] = []
    taken = used
    for group in _groups(shown[_KEYS:]):
        needed = sum(map(_width, group))
        if block and taken + needed > width:
            yield (*keys, *block)
            block, taken = [], used
        block += group
        taken += needed
    yield (*keys, *block)


def _width(column: Column) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, (column.head, *column.cells))) + _GAP
