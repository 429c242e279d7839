"""The results table on a terminal. Columns that do not fit side by side go into further blocks of the same rows."""

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


def print_results(results: Results, console: Console) -> None:
    """Print the table and its footnotes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if results.rows:
        console.print(Text(results.title or results.recipe, style="bold"))
    for block in _blocks(columns(results), console.width) if results.rows else ():
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for column in block:
            table.add_column(column.head, justify="right" if column.numeric else "left", no_wrap=True)
        for index, row in enumerate(results.rows):
            cells = (Text(column.cells[index]) for column in block)
            table.add_row(*cells, style="" if row.status == "ok" else "red")
        console.print(table)
    for note in footnotes(results):
        console.print(Text(note, style="dim"))
    if results.output:
        console.print(Text(f"models, reports and diffs: {results.output}"))


def _blocks(shown: Sequence[Column], width: int) -> Iterator[tuple[Column, ...]]:
    keys, rest = tuple(shown[:_KEYS]), shown[_KEYS:]
    used = sum(map(_width, keys))
    block: list[Column] = []
    taken = used
    groups: list[list[Column]] = []
    for column in rest:
        if column.glued and groups:
            groups[-1].append(column)
        else:
            groups.append([column])
    for group in groups:
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
