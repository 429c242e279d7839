"""Where the checker puts what it finds: every finding once, in the order of the places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from mopt.grammar.diagnostics import Diagnostic, Label
from mopt.grammar.source import Span


class Report:
    """The findings so far."""

    def __init__(self) -> None:
        self._found: dict[object, Diagnostic] = {}
        self._told: set[tuple[str, str]] = set()

    def add(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Take findings; those that are known already are dropped (a step is checked once per variant)."""
        for one in diagnostics:
            self._found.setdefault(one.key, one)

    def error(
        self,
        code: str,
        message: str,
        span: Span,
        label: str = "",
        *,
        secondary: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: str | None = None,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        """Report something at a place."""
        primary = Label(span, label)
        self.add([Diagnostic(code, severity, message, primary, tuple(secondary), tuple(notes), help)])

    def first(self, code: str, subject: str) -> bool:
        """Say whether nothing was asked of this subject under this code yet: what holds of it is said at one place."""
        fresh = (code, subject) not in self._told
        self._told.add((code, subject))
        return fresh

    def warn(
        self,
        code: str,
        message: str,
        span: Span,
        label: str = "",
        *,
        secondary: Sequence[Label] = (),
        notes: Sequence[str] = (),
        help: str | None = None,
    ) -> None:
        """Report something that does not stop the recipe."""
        self.error(code, message, span, label, secondary=secondary, notes=notes, help=help, severity="warning")

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Everything found: by file in the order in which they were first mentioned, then by place."""
        order: dict[str, int] = {}
        for one in self._found.values():
            order.setdefault(one.primary.span.path if one.primary else one.path or "", len(order))

        def rank(one: Diagnostic) -> tuple[int, int]:
            if one.primary is None:
                return order[one.path or ""], -1
            return order[one.primary.span.path], one.primary.span.start

        return tuple(sorted(self._found.values(), key=rank))

    @property
    def failed(self) -> bool:
        """Whether there is an error."""
        return any(one.severity == "error" for one in self._found.values())
