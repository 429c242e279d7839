"""Recipe text, and places in it."""

from __future__ import annotations

import bisect
import re
from functools import cached_property
from typing import NamedTuple

_LINE_BREAK = re.compile(r"\r\n|\n|\r")


class Source:
    """The text of one recipe file and the name it is shown under. Compared by identity.

    Offsets count characters of `text`; lines and columns are 1-based. A line ends at LF, CRLF or CR.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text

    def __repr__(self) -> str:
        return f"Source({self.path!r}, {len(self.text)} characters)"

    @cached_property
    def line_starts(self) -> list[int]:
        """The offset at which each line begins."""
        return [0, *(match.end() for match in _LINE_BREAK.finditer(self.text))]

    def position(self, offset: int) -> tuple[int, int]:
        """Return the line and the column of an offset."""
        line = bisect.bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Return one line without its line break."""
        start = self.line_starts[number - 1]
        end = self.line_starts[number] if number < len(self.line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def span(self, start: int, end: int) -> Span:
        """Return the place from `start` up to, not including, `end`."""
        return Span(self, start, end)


class Span(NamedTuple):
    """A stretch of a source. It carries its source, so that a diagnostic can be shown without anything else."""

    source: Source
    start: int
    end: int

    @property
    def path(self) -> str:
        """The name of the file."""
        return self.source.path

    @property
    def line(self) -> int:
        """The 1-based line it begins on."""
        return self.source.position(self.start)[0]

    @property
    def column(self) -> int:
        """The 1-based column it begins at."""
        return self.source.position(self.start)[1]

    @property
    def text(self) -> str:
        """What stands there."""
        return self.source.text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """Return the place from the start of this one to the end of `other`."""
        return Span(self.source, self.start, other.end)

    def __repr__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"
