"""Plain, narrow, copyable terminal output: headings, lines and tables that fit whatever width there is.

Works without colour, and without Unicode: where the output's encoding is not UTF, signs are spelled in ASCII and
names are escaped. Names from models are never taken for markup or control sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, set_cell_size
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

_GAP = 2
_ASCII = {"→": "->", "−": "-", "×": "x", "…": "...", "±": "+-", "∞": "inf", "·": "-", "–": "-", "≥": ">=", "Δ": "d"}


def clean(name: str) -> str:
    """Return a name with everything that does not print (control characters, bidi marks) escaped."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def shorten(name: str, width: int, ellipsis: str = "…") -> str:
    """Return a name in at most `width` cells; the middle goes first, since the end tells names apart."""
    if cell_len(name) <= width:
        return name
    room = width - len(ellipsis)
    if room <= 0:
        return ellipsis[:width]
    head = room // 3
    return f"{set_cell_size(name, head)}{ellipsis}{_last_cells(name, room - head)}"


def _last_cells(text: str, width: int) -> str:
    start = len(text)
    while start > 0 and cell_len(text[start - 1 :]) <= width:
        start -= 1
    return text[start:]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: of the column.
        align: text stands left, numbers right.
        droppable: left out where the table is too wide, the highest first; 0 never.
        flexible: its cells are shortened to fit, to no fewer than `least` cells while columns can be left out.
    """

    title: str
    align: Literal["left", "right"] = "left"
    droppable: int = 0
    flexible: bool = False
    least: int = 16


@dataclass
class Table:
    """Columns and rows of text; `styles` gives a style for some rows by number."""

    columns: Sequence[Column]
    rows: list[Sequence[str]] = field(default_factory=list)
    styles: dict[int, str] = field(default_factory=dict)

    def lines(self, width: int, ellipsis: str = "…") -> list[tuple[str, str]]:
        """Lay the table out in `width` cells: (text, style) for each line, the header first where there is one."""
        keep = [i for i in range(len(self.columns)) if any(row[i] for row in self.rows)]
        widths = {i: max(cell_len(cell) for cell in self._cells(i)) for i in keep}
        least = {i: min(widths[i], self.columns[i].least) if self.columns[i].flexible else widths[i] for i in keep}
        while sum(least[i] + _GAP for i in keep) - _GAP > width:
            droppable = [i for i in keep if self.columns[i].droppable]
            if not droppable:
                break
            keep.remove(max(droppable, key=lambda i: self.columns[i].droppable))
        least = {i: min(least[i], 8) if self.columns[i].flexible else least[i] for i in keep}
        excess = sum(widths[i] + _GAP for i in keep) - _GAP - width
        while excess > 0 and any(widths[i] > least[i] for i in keep):
            # What stands above its own least gives way first.
            widest = max(
                (i for i in keep if widths[i] > least[i]),
                key=lambda i: (widths[i] > self.columns[i].least, widths[i]),
            )
            widths[widest] -= 1
            excess -= 1
        laid = [(self._line([self.columns[i].title for i in keep], keep, widths, ellipsis), "dim")]
        if not laid[0][0].strip():
            laid = []
        for number, row in enumerate(self.rows):
            laid.append((self._line([row[i] for i in keep], keep, widths, ellipsis), self.styles.get(number, "")))
        return laid

    def _cells(self, i: int) -> list[str]:
        return [self.columns[i].title, *(row[i] for row in self.rows)]

    def _line(self, cells: Sequence[str], keep: Sequence[int], widths: dict[int, int], ellipsis: str) -> str:
        parts = []
        for cell, i in zip(cells, keep, strict=True):
            text = shorten(cell, widths[i], ellipsis) if self.columns[i].flexible else cell
            padding = " " * (widths[i] - cell_len(text))
            parts.append(padding + text if self.columns[i].align == "right" else text + padding)
        return (" " * _GAP).join(parts).rstrip()


class Page:
    """Prints to a console; the only place that knows its width and encoding."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.width = console.width
        self.encoding = console.encoding
        self._ascii = not self.encoding.lower().startswith("utf")
        self._started = False

    def heading(self, title: str, aside: str = "", style: str = "bold") -> None:
        """Start a section."""
        if self._started:
            self._print(Text())
        text = Text()
        text.append(self._spelled(title), style=style)
        if aside:
            text.append(self._spelled(f"  {aside}"), style="dim")
        self._print(text)

    def line(self, text: str, style: str = "", indent: int = 2) -> None:
        """Print one line, wrapped by words to the width."""
        for part in _wrapped(text, max(20, self.width - indent)):
            self._print(Text(" " * indent + self._spelled(part), style=style))

    def table(self, table: Table, indent: int = 2) -> None:
        """Print a table."""
        spelled = Table(
            [replace(column, title=self._spelled(column.title)) for column in table.columns],
            [[self._spelled(cell) for cell in row] for row in table.rows],
            table.styles,
        )
        for text, style in spelled.lines(self.width - indent, self._spelled("…")):
            self._print(Text(" " * indent + text, style=style))

    def _print(self, text: Text) -> None:
        self._started = True
        self.console.print(text, no_wrap=True, overflow="ignore", crop=False, highlight=False, soft_wrap=True)

    def _spelled(self, text: str) -> str:
        if not self._ascii:
            return text
        for sign, spelling in _ASCII.items():
            text = text.replace(sign, spelling)
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if line and cell_len(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]
