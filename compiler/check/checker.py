"""`check`: the recipe at a path, its imports, its parameters, its names, its options, its orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mopt.check.assembly import Assembly
from mopt.check.loading import load_program
from mopt.check.report import Report
from mopt.grammar.diagnostics import Diagnostic
from mopt.grammar.source import Source
from mopt.plugin.registry import Registry, default_registry
from mopt.recipe import Recipe

_FOLLOWS_FROM_SYNTAX = ("E0402", "E0408", "E0409", "E0503", "E0701")
"""What may be due to nothing but a statement that a syntax error swallowed."""


@dataclass(frozen=True)
class CheckResult:
    """What the checker found.

    Attributes:
        recipe: the checked recipe, None if there is an error.
        diagnostics: errors and warnings in the order of their places.
        sources: every recipe file that was read, the checked one first.
    """

    recipe: Recipe | None
    diagnostics: tuple[Diagnostic, ...]
    sources: tuple[Source, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return self.recipe is not None


def _without_consequences(diagnostics: tuple[Diagnostic, ...]) -> tuple[Diagnostic, ...]:
    """Drop what may be due to a syntax error: what a lost statement would explain, and what overlaps one."""
    syntax = [one.primary.span for one in diagnostics if one.code.startswith("E01") and one.primary]

    def overlaps(one: Diagnostic) -> bool:
        span = one.primary.span if one.primary else None
        return span is not None and any(
            span.source is other.source and span.start < other.end and other.start < span.end for other in syntax
        )

    return tuple(
        one
        for one in diagnostics
        if one.code.startswith("E01") or not (one.code in _FOLLOWS_FROM_SYNTAX or overlaps(one))
    )


def check(path: Path, overrides: Mapping[str, str] | None = None, registry: Registry | None = None) -> CheckResult:
    """Check a recipe. Runs no code of the recipe's author and reads no model and no data.

    Args:
        path: the recipe file.
        overrides: `--set NAME=VALUE`, by name.
        registry: the plug-ins to check against; those that are installed if None.

    Raises:
        PluginError: two installed packages bring plug-ins of one name.
    """
    report = Report()
    program = load_program(path, report)
    if program.root is None:
        return CheckResult(None, report.diagnostics)
    recipe = Assembly(program, registry or default_registry(), overrides or {}, report).assemble(str(path))
    diagnostics = report.diagnostics
    if program.broken:
        diagnostics = _without_consequences(diagnostics)
    return CheckResult(None if report.failed else recipe, diagnostics, tuple(program.sources))
