"""What is wrong with a recipe, as data. `render.py` turns it into text, once."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from mopt.grammar.source import Span


@dataclass(frozen=True)
class Label:
    """A place and what is to be said about it."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One finding.

    Attributes:
        code: a stable code of `codes.CATALOGUE`; `mopt explain CODE` prints more.
        severity: an error stops the recipe from being compiled, a warning does not.
        message: the terse headline.
        primary: the place at fault, saying what was expected and found; None where there is no text to show
            (a missing file, a wrong `--set`).
        secondary: other places that matter, such as the declaration it clashes with.
        notes: further facts.
        help: what to do.
        path: the file it is about, where there is no place.
    """

    code: str
    severity: Literal["error", "warning"]
    message: str
    primary: Label | None = None
    secondary: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: str | None = None
    path: str | None = None

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What makes two findings the same one."""
        span = self.primary.span if self.primary else None
        return (
            self.code,
            self.message,
            span.path if span else self.path or "",
            span.start if span else 0,
            span.end if span else 0,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; lines and columns are 1-based, `end_column` points behind the last character."""
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "path": self.primary.span.path if self.primary else self.path,
            "primary": _label_json(self.primary) if self.primary else None,
            "secondary": [_label_json(label) for label in self.secondary],
            "notes": list(self.notes),
            "help": self.help,
        }


def _label_json(label: Label) -> dict[str, Any]:
    line, column = label.span.source.position(label.span.start)
    end_line, end_column = label.span.source.position(label.span.end)
    return {
        "path": label.span.path,
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "label": label.text,
    }


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` is most likely a slip for, or None."""
    table = {candidate.casefold(): candidate for candidate in known}
    close = difflib.get_close_matches(name.casefold(), table, n=1, cutoff=0.6)
    return table[close[0]] if close else None


class ParseError(Exception):
    """A text is no recipe. `diagnostics` says why."""

    def __init__(self, diagnostics: tuple[Diagnostic, ...]) -> None:
        first = next((one for one in diagnostics if one.severity == "error"), diagnostics[0])
        super().__init__(f"{first.code}: {first.message}")
        self.diagnostics = diagnostics
