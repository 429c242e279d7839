"""What the names of a recipe stand for. There is one space of names: a name means one thing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mopt.check.measures import MEASURES
from mopt.check.report import Report
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label, nearest

KIND_WORDS = {
    "param": "a parameter",
    "model": "a model",
    "data": "a data set",
    "loss": "a loss",
    "metric": "a metric",
    "pipeline": "a pipeline",
    "app": "an app",
    "target": "a target",
}


@dataclass(frozen=True)
class Symbol:
    """A declared name. `order` counts declarations, imported ones included."""

    name: str
    kind: str
    node: syntax.Param | syntax.Declaration | syntax.Pipeline
    order: int

    @property
    def label(self) -> Label:
        """Its declaration, for a diagnostic."""
        return Label(self.node.name.span, f"`{self.name}` is declared here, as {KIND_WORDS[self.kind]}")


class Scope:
    """The declared names of a recipe and its imports."""

    def __init__(self, lost: frozenset[str] = frozenset(), incomplete: bool = False) -> None:
        self._symbols: dict[str, Symbol] = {}
        self._lost = lost
        self._incomplete = incomplete

    def may_exist(self, name: str) -> bool:
        """Say whether an unknown name may be declared in what a syntax error or a failed import swallowed."""
        return self._incomplete or name in self._lost

    def declare(self, node: syntax.Param | syntax.Declaration | syntax.Pipeline, report: Report) -> bool:
        """Add a declaration; a name that is taken, or that every pipeline has as a measure, is reported."""
        name = node.name.text
        kind = node.kind if isinstance(node, syntax.Declaration) else type(node).__name__.lower()
        taken = self._symbols.get(name)
        if taken is not None:
            report.error(
                "E0202",
                f"`{name}` is declared twice",
                node.name.span,
                f"declared again, as {KIND_WORDS[kind]}",
                secondary=[Label(taken.node.name.span, f"first declared here, as {KIND_WORDS[taken.kind]}")],
                help="models, data, losses, metrics, pipelines, targets and parameters share one space of names",
            )
            return False
        if name in MEASURES:
            report.error(
                "E0211",
                f"`{name}` already means something",
                node.name.span,
                f"every pipeline has a `{name}`: {MEASURES[name].help}",
                help="choose another name",
            )
        self._symbols[name] = Symbol(name, kind, node, len(self._symbols))
        return True

    def get(self, name: str) -> Symbol | None:
        """Look a name up."""
        return self._symbols.get(name)

    def names(self, kinds: Iterable[str] = ()) -> list[str]:
        """Return the declared names, of some kinds only if given."""
        wanted = set(kinds)
        return [name for name, symbol in self._symbols.items() if not wanted or symbol.kind in wanted]

    def symbols(self) -> Iterable[Symbol]:
        """Return all declarations in order."""
        return self._symbols.values()

    def suggestion(self, name: str, kinds: Iterable[str], more: Iterable[str] = ()) -> str:
        """Return a label for an unknown name: the nearest name of a fitting kind, or what there is."""
        known = [*self.names(kinds), *more]
        close = nearest(name, known)
        if close:
            return f"did you mean `{close}`?"
        if known and len(known) <= 8:
            return "there is " + ", ".join(f"`{one}`" for one in known)
        return "not declared"
