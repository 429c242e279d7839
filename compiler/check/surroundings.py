"""What a value is read against, and which option it is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mopt.check.report import Report
from mopt.check.scope import Scope
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label
from mopt.grammar.source import Source
from mopt.plugin import Registry

if TYPE_CHECKING:
    from mopt.check.references import References


class Failed:
    """The value could not be made; why is in the report."""


FAILED: Final = Failed()


@dataclass
class Surroundings:
    """What values are read against.

    Attributes:
        choices: for each `any(…)` in force, by identity, the alternative that this variant takes; None where
            nothing can be varied.
    """

    scope: Scope
    report: Report
    registry: Registry
    references: References
    bases: Mapping[Source, Path]
    root: Path
    choices: Mapping[int, int] | None = None

    def chosen(self, value: syntax.Value) -> syntax.Value:
        """Return the alternative that this variant takes, where it takes one."""
        if isinstance(value, syntax.AnyValue) and value.alternatives and self.choices and id(value) in self.choices:
            return value.alternatives[self.choices[id(value)]]
        return value

    def base(self, node: syntax.Node) -> Path:
        """Return the folder that paths written at a place are relative to."""
        return self.bases.get(node.span.source, self.root)


@dataclass(frozen=True)
class Site:
    """The option a value is for, and the parameter it came through."""

    what: str
    minimum: float | None = None
    maximum: float | None = None
    via: syntax.Reference | None = None

    def error(
        self,
        report: Report,
        code: str,
        message: str,
        node: syntax.Node,
        label: str,
        secondary: Sequence[Label] = (),
        help: str | None = None,
    ) -> Failed:
        """Report a value; one that came through a parameter is shown where the parameter is used."""
        if self.via is None:
            report.error(code, message, node.span, label, secondary=secondary, help=help)
        else:
            more = [Label(node.span, f"the value of `{self.via.text}`"), *secondary]
            report.error(code, message, self.via.span, label, secondary=more, help=help)
        return FAILED
