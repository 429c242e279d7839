"""`require`: what the names of a condition measure, and whether its units go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mopt import recipe
from mopt.check import constants
from mopt.check.measures import DIMENSION_WORDS, MEASURES, Dimension
from mopt.check.scope import KIND_WORDS
from mopt.check.surroundings import Site, Surroundings
from mopt.check.variants import references_of
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label, nearest
from mopt.grammar.format import requirement_text, value_text
from mopt.grammar.tokens import UNITS

if TYPE_CHECKING:
    from mopt.check.scope import Symbol

_PLAIN = ("number", "ratio", "score")
_WITH_COUNTS = ("number", "count")

IsEvaluated = Callable[[str | None, str], bool]
"""Whether a metric is evaluated on a pipeline, by its expanded name (None: the one at hand)."""


@dataclass(frozen=True)
class _Typed:
    """An expression and what it counts."""

    expression: recipe.Expression
    dimension: Dimension


class Conditions:
    """Reads the conditions of one pipeline variant."""

    def __init__(self, around: Surroundings, is_evaluated: IsEvaluated) -> None:
        self._around = around
        self._report = around.report
        self._is_evaluated = is_evaluated

    def read(self, node: syntax.Require) -> recipe.Requirement | None:
        """Return a condition, or None after a report."""
        left, right = self._expression(node.left), self._expression(node.right)
        if (node.target is not None and not self._is_target(node.target)) or left is None or right is None:
            return None
        if not self._measures(left.expression) and not self._measures(right.expression):
            label = "always true or always false"
            help = "compare a measured quantity: " + ", ".join(f"`{name}`" for name in MEASURES) + ", or a metric"
            self._report.error("E0504", "the condition measures nothing", node.span, label, help=help)
            return None
        if not _comparable(left.dimension, right.dimension):
            self._incompatible("compared", node, node.left, left, node.right, right)
            return None
        span = node.span
        place = recipe.Place(span.path, span.line, span.column)
        target = node.target.text if node.target is not None else None
        text = requirement_text(node)
        return recipe.Requirement(left.expression, node.operator, right.expression, text, place, target)

    def _is_target(self, node: syntax.Name) -> bool:
        scope, name = self._around.scope, node.text
        symbol = scope.get(name)
        if symbol is not None and symbol.kind == "target":
            return True
        if symbol is None and scope.may_exist(name):
            return False
        if symbol is None:
            message, label = f"no target is called `{name}`", scope.suggestion(name, ("target",))
            help = None if scope.names(("target",)) else f"declare it: `target {name} = ort()`"
            self._report.error("E0201", message, node.span, label, help=help)
        else:
            message, label = f"`{name}` is {KIND_WORDS[symbol.kind]}", "a condition is measured on a target"
            self._report.error("E0306", message, node.span, label, secondary=[symbol.label])
        return False

    def _measures(self, node: recipe.Expression) -> bool:
        if isinstance(node, recipe.Binary):
            return self._measures(node.left) or self._measures(node.right)
        return isinstance(node, recipe.Measure)

    def _expression(self, node: syntax.Expression) -> _Typed | None:
        if isinstance(node, syntax.Number):
            return _number(node)
        if isinstance(node, syntax.Reference):
            return self._name(node)
        left, right = self._expression(node.left), self._expression(node.right)
        if left is None or right is None:
            return None
        dimension = _combined(node.operator, left.dimension, right.dimension)
        if dimension is None:
            word = {"+": "added", "-": "subtracted", "*": "multiplied", "/": "divided"}[node.operator]
            self._incompatible(word, node, node.left, left, node.right, right)
            return None
        return _Typed(recipe.Binary(node.operator, left.expression, right.expression), dimension)

    def _incompatible(
        self,
        word: str,
        node: syntax.Require | syntax.Binary,
        left_node: syntax.Expression,
        left: _Typed,
        right_node: syntax.Expression,
        right: _Typed,
    ) -> None:
        help = None
        if right.dimension == "ratio" and node.operator in "+-" and isinstance(right_node, syntax.Number):
            share = 100 + (right_node.value if node.operator == "+" else -right_node.value)
            help = f"a share of it is written as a product: `{share:.12g}% * {left_node.span.text}`"
        elif "number" in (left.dimension, right.dimension):
            other = left.dimension if right.dimension == "number" else right.dimension
            if other in ("bytes", "time"):
                units = [
                    unit for unit, (kind, _) in UNITS.items() if kind == ("size" if other == "bytes" else "duration")
                ]
                help = "give the number a unit: " + ", ".join(f"`{unit}`" for unit in units if unit.isascii())
        elif "ratio" in (left.dimension, right.dimension):
            measured = left_node if right.dimension == "ratio" else right_node
            name = measured.parts[-1].text if isinstance(measured, syntax.Reference) else "size"
            help = f"a ratio is of something: `30% * original.{name}`, say"
        self._report.error(
            "E0502",
            f"{DIMENSION_WORDS[left.dimension]} and {DIMENSION_WORDS[right.dimension]} can't be {word}",
            right_node.span,
            f"this is {DIMENSION_WORDS[right.dimension]}",
            secondary=[Label(left_node.span, f"this is {DIMENSION_WORDS[left.dimension]}")],
            help=help,
        )

    def _name(self, node: syntax.Reference) -> _Typed | None:
        scope, name = self._around.scope, node.parts[0].text
        symbol = scope.get(name)
        if len(node.parts) == 1:
            if symbol is not None and isinstance(symbol.node, syntax.Param):
                return self._parameter(node, symbol)
            return self._measure(node, None, node.parts[0])
        if symbol is None:
            if not scope.may_exist(name):
                label = scope.suggestion(name, ("pipeline",))
                self._report.error("E0201", f"no pipeline is called `{name}`", node.parts[0].span, label)
            return None
        if symbol.kind != "pipeline" or len(node.parts) > 2:
            what = KIND_WORDS[symbol.kind]
            help = f"measure it as a pipeline: `pipeline NAME = {name} {{ }}`" if symbol.kind == "model" else None
            self._report.error(
                "E0306",
                "only pipelines are measured" if symbol.kind != "pipeline" else "a measure has no parts",
                node.span,
                f"`{name}` is {what}",
                secondary=[symbol.label],
                help=help,
            )
            return None
        here = self._around.references.here
        if here is not None and symbol.name == here.name:
            return self._measure(node, None, node.parts[1])
        pipeline = self._around.references.variant(symbol, node, Site("a condition"), self._around)
        return self._measure(node, pipeline, node.parts[1]) if pipeline is not None else None

    def _parameter(self, node: syntax.Reference, symbol: Symbol) -> _Typed | None:
        constant = self._around.references.parameter(symbol)
        value = self._around.chosen(constant) if constant is not None else None
        if value is None or isinstance(value, syntax.AnyValue):
            return None  # reported where the parameter is
        if not isinstance(value, syntax.Number):
            secondary = [Label(value.span, "its value")]
            message = f"the parameter `{symbol.name}` is no number"
            self._report.error("E0301", message, node.span, "a condition takes numbers", secondary=secondary)
            return None
        return _number(value)

    def _measure(self, node: syntax.Reference, pipeline: str | None, last: syntax.Name) -> _Typed | None:
        name = last.text
        if name in MEASURES:
            return _Typed(recipe.Measure(pipeline, name), MEASURES[name].dimension)
        scope, registry = self._around.scope, self._around.registry
        symbol = scope.get(name)
        is_metric = (
            symbol.kind in ("metric", "loss")
            if symbol is not None
            else registry.has("metrics", name) or registry.has("losses", name)
        )
        if self._is_evaluated(pipeline, name) and is_metric:
            return _Typed(recipe.Measure(pipeline, name), "score")
        if scope.may_exist(name):
            return None
        secondary = [symbol.label] if symbol is not None else []
        if is_metric:
            self._report.error(
                "E0503",
                f"`{name}` is not evaluated" + (f" on `{pipeline}`" if pipeline else " on this pipeline"),
                last.span,
                "no `evaluate` names it for this pipeline",
                secondary=secondary,
                help=f"add it: `evaluate(data=…, metrics=[{name}])`",
            )
            return None
        known = [*MEASURES, *scope.names(("metric", "loss"))]
        close = nearest(name, known)
        self._report.error(
            "E0501",
            f"nothing called `{name}` is measured" if symbol is None else f"`{name}` is {KIND_WORDS[symbol.kind]}",
            last.span,
            f"did you mean `{close}`?" if close else "no measure and no metric",
            secondary=secondary,
            help="every pipeline has " + ", ".join(f"`{one}`" for one in MEASURES) + ", and the metrics of `evaluate`",
        )
        return None


def uses_of(node: syntax.Require) -> set[str]:
    """Return the first words of a condition's names."""
    return {reference.parts[0].text for reference in references_of(node)}


def _number(node: syntax.Number) -> _Typed:
    dimension: Dimension = "number"
    if node.unit:
        kinds: dict[str, Dimension] = {"ratio": "ratio", "size": "bytes", "duration": "time"}
        dimension = kinds[UNITS[node.unit][0]]
    return _Typed(recipe.Number(constants.number(node), value_text(node)), dimension)


def _comparable(left: Dimension, right: Dimension) -> bool:
    return left == right or {left, right} <= set(_PLAIN) or {left, right} <= set(_WITH_COUNTS)


def _combined(operator: str, left: Dimension, right: Dimension) -> Dimension | None:
    if operator in "+-":
        if not _comparable(left, right):
            return None
        return max((left, right), key=("number", "ratio", "score", "count", "bytes", "time").index)
    if operator == "*":
        if left in _PLAIN and right in _PLAIN:
            return max((left, right), key=_PLAIN.index)
        if left in _PLAIN:
            return right
        return left if right in _PLAIN else None
    if right in _PLAIN:
        return left
    return "number" if left == right else None
