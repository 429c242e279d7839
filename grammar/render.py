"""Diagnostics as text: the one place that knows what they look like.

error[E0204]: `prune.channels` takes no option `ammount`
  --> captcha.mopt:18:20
   |
18 |     prune.channels(ammount=20%, criterion=l1)
   |                    ^^^^^^^ did you mean `amount`?
   |
   = help: `mopt passes prune.channels` lists its options
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from mopt.grammar.diagnostics import Diagnostic, Label
from mopt.grammar.source import Source

_RESET, _BOLD, _RED, _YELLOW, _BLUE, _CYAN = (
    "\x1b[0m",
    "\x1b[1m",
    "\x1b[1;31m",
    "\x1b[1;33m",
    "\x1b[1;34m",
    "\x1b[1;36m",
)
_TAB = "    "


def render(diagnostics: Iterable[Diagnostic], *, color: bool = False, width: int = 120) -> str:
    """Return diagnostics as text, a blank line between two, ending with a line break unless there is none.

    Args:
        diagnostics: in the order in which they are shown.
        color: use ANSI colours.
        width: longer source lines are cut around the place at fault.
    """
    return "\n".join(_Renderer(one, color, max(width, 40)).text() for one in diagnostics)


class _Renderer:
    def __init__(self, diagnostic: Diagnostic, color: bool, width: int) -> None:
        self._one = diagnostic
        self._color = color
        self._width = width
        labels = [diagnostic.primary, *diagnostic.secondary] if diagnostic.primary else list(diagnostic.secondary)
        self._labels = labels
        numbers = [label.span.line for label in labels]
        self._gutter = len(str(max(numbers, default=1)))

    def _paint(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._color and text else text

    def text(self) -> str:
        one = self._one
        style = _RED if one.severity == "error" else _YELLOW
        lines = [self._paint(style, f"{one.severity}[{one.code}]") + self._paint(_BOLD, f": {_plain(one.message)}")]
        bar = self._bar()
        if self._labels:
            primary = self._labels[0]
            files = list(dict.fromkeys(label.span.source for label in self._labels))
            for source in files:
                head = next(label for label in self._labels if label.span.source is source)
                arrow = "-->" if source is primary.span.source else ":::"
                place = f"{_plain(source.path)}:{head.span.line}:{head.span.column}"
                lines += [f"{' ' * self._gutter}{self._paint(_BLUE, arrow)} {place}", bar]
                lines += self._excerpt([label for label in self._labels if label.span.source is source], style)
                lines.append(bar)
        elif one.path is not None:
            lines.append(f"{' ' * self._gutter}{self._paint(_BLUE, '-->')} {_plain(one.path)}")
            if one.notes or one.help:
                lines.append(bar)
        trailer = [("note", note) for note in one.notes] + ([("help", one.help)] if one.help else [])
        if not trailer and self._labels:
            lines.pop()
        for word, said in trailer:
            first, *more = _plain(said, keep_breaks=True).split("\n")
            lines.append(f"{' ' * self._gutter} {self._paint(_BLUE, '=')} {self._paint(_CYAN, word)}: {first}")
            lines += [f"{' ' * self._gutter}   {' ' * len(word)}  {line}" for line in more]
        return "\n".join(line.rstrip() for line in lines) + "\n"

    def _bar(self) -> str:
        return f"{' ' * self._gutter} {self._paint(_BLUE, '|')}"

    def _excerpt(self, labels: list[Label], style: str) -> list[str]:
        lines: list[str] = []
        primary = self._labels[0]
        previous: int | None = None
        for number in sorted({label.span.line for label in labels}):
            if previous is not None and number > previous + 1:
                lines.append(self._paint(_BLUE, "...") if number > previous + 2 else self._source(labels, previous + 1))
            here = sorted((label for label in labels if label.span.line == number), key=lambda label: label.span.start)
            shown, offset = self._window(here[0].span.source, number, [_columns(label) for label in here])
            lines.append(f"{self._paint(_BLUE, str(number).rjust(self._gutter))} {self._paint(_BLUE, '|')} {shown}")
            for label in here:
                start, end = _columns(label)
                end = min(end, offset + _cells(shown))
                mark = ("^" if label is primary else "-") * max(end - start, 1)
                line = " " * (start - offset) + self._paint(
                    style if label is primary else _BLUE, f"{mark} {_plain(label.text)}".rstrip()
                )
                lines.append(f"{self._bar()} {line}")
            previous = number
        return lines

    def _source(self, labels: list[Label], number: int) -> str:
        text = _expand(labels[0].span.source.line(number))[: self._width - self._gutter - 3]
        return f"{self._paint(_BLUE, str(number).rjust(self._gutter))} {self._paint(_BLUE, '|')} {text}"

    def _window(self, source: Source, number: int, columns: list[tuple[int, int]]) -> tuple[str, int]:
        """Return a line as shown, and how far it is shifted to the left."""
        text = _expand(source.line(number))
        room = self._width - self._gutter - 3
        if _cells(text) <= room or not text.isascii():
            return text if _cells(text) <= 4 * room else text[: 4 * room] + "…", 0
        first, last = columns[0][0], min(columns[-1][1], columns[0][0] + room // 2)
        start = max(0, min(first - 8, last + 8 - room))
        if start == 0:
            return text[: room - 1] + "…", 0
        cut = text[start + 1 : start + room - 1]
        return "…" + cut + ("…" if start + room - 1 < len(text) else ""), start


def _columns(label: Label) -> tuple[int, int]:
    """Where a mark begins and ends, in cells of the line as shown; a place of several lines ends with the first."""
    span = label.span
    line = span.source.line(span.line)
    start = min(span.column - 1, len(line))
    end = min(start + span.end - span.start, len(line))
    return _cells(_expand(line[:start])), _cells(_expand(line[:end]))


def _expand(text: str) -> str:
    return "".join(_TAB if char == "\t" else char if char.isprintable() else "�" for char in text)


def _plain(text: str, keep_breaks: bool = False) -> str:
    """Keep what a recipe says from steering the terminal."""
    return "".join(char if char.isprintable() or (keep_breaks and char == "\n") else "�" for char in text)


def _cells(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
