"""The results table on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopt.report.results import Results
from mopt.report.table import columns, footnotes

if TYPE_CHECKING:
    from rich.console import Console


def print_results(results: Results, console: Console) -> None:
    """Print the table and its footnotes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if results.rows:
        title = results.title or results.recipe
        table = Table(title=title, box=box.SIMPLE_HEAD, title_style="bold", title_justify="left", pad_edge=False)
        shown = columns(results)
        for column in shown:
            table.add_column(
                column.head,
                justify="right" if column.numeric else "left",
                overflow="fold",
                no_wrap=column.head == "target",
            )
        for index, row in enumerate(results.rows):
            failed = row.status != "ok"
            style = "red" if failed else ""
            table.add_row(*(Text(column.cells[index]) for column in shown), style=style)
        console.print(table)
    for note in footnotes(results):
        console.print(Text(note, style="dim"))
    if results.output:
        console.print(Text(f"models, reports and diffs: {results.output}"))
