"""From the rules of the grammar to the typed syntax tree, bottom up: nothing here recurses."""

from __future__ import annotations

from typing import Any, Literal, cast

from mopt.grammar import syntax
from mopt.grammar.diagnostics import Diagnostic, Label
from mopt.grammar.source import Source, Span
from mopt.grammar.tokens import MAX_DEPTH, UNITS, Token


class Builder:
    """Builds the nodes of one source; `reduce` is what the automaton calls."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        self._depths: dict[int, int] = {}

    def reduce(self, rule: str, parts: list[Any]) -> Any:
        """Return the node of a rule."""
        return getattr(self, "_" + rule.rstrip("_"))(parts)

    def _span(self, first: Any, last: Any) -> Span:
        start = first.start if type(first) is Token else first.span.start
        end = last.end if type(last) is Token else last.span.end
        return Span(self.source, start, end)

    def _name(self, token: Token) -> syntax.Name:
        return syntax.Name(Span(self.source, token.start, token.end), token.text)

    # Values

    def _number(self, parts: list[Any]) -> syntax.Number:
        text = parts[-1].text
        unit = text.lstrip("0123456789_.")
        if unit[:1] in ("e", "E") and unit[1:2] and unit[1] in "+-0123456789":
            unit = unit[1:].lstrip("+-0123456789")
        assert not unit or unit in UNITS
        digits = text.removesuffix(unit).replace("_", "") if unit else text.replace("_", "")
        try:
            value: int | float = int(digits) if digits.isdigit() else float(digits)
        except ValueError:  # more digits than Python converts
            value = float("inf")
        if value == float("inf") or (isinstance(value, int) and value >= 1 << 63):
            self.diagnostics.append(
                Diagnostic(
                    "E0107",
                    "error",
                    "a number that is too large",
                    Label(self._span(parts[0], parts[-1]), "no 64-bit number holds this"),
                )
            )
            value = 0
        if len(parts) == 2:
            value, text = -value, "-" + text
        return syntax.Number(self._span(parts[0], parts[-1]), value, unit, text)

    def _nofm(self, parts: list[Any]) -> syntax.NofM:
        return syntax.NofM(self._span(parts[0], parts[2]), _whole(parts[0]), _whole(parts[2]))

    def _boolean(self, parts: list[Any]) -> syntax.Boolean:
        return syntax.Boolean(self._span(parts[0], parts[0]), parts[0].type == "TRUE")

    def _string(self, parts: list[Any]) -> syntax.String:
        return syntax.String(self._span(parts[0], parts[0]), parts[0].text)

    def _list(self, parts: list[Any]) -> syntax.ListValue:
        return syntax.ListValue(self._span(parts[0], parts[-1]), _nodes(parts))

    def _any(self, parts: list[Any]) -> syntax.AnyValue:
        return syntax.AnyValue(self._span(parts[0], parts[-1]), _nodes(parts))

    def _map(self, parts: list[Any]) -> syntax.MapValue:
        return syntax.MapValue(self._span(parts[0], parts[-1]), _nodes(parts))

    def _entry(self, parts: list[Any]) -> syntax.Entry:
        first = parts[0]
        key = self._string([first]) if first.type == "STRING" else self._name(first)
        return syntax.Entry(self._span(parts[0], parts[2]), key, parts[2])

    def _reference(self, parts: list[Any]) -> syntax.Reference:
        names = tuple(self._name(part) for part in parts if part.type != "DOT")
        return syntax.Reference(self._span(parts[0], parts[-1]), names)

    _measure = _reference

    def _indexed(self, parts: list[Any]) -> syntax.Reference | syntax.TensorValue:
        inner = parts[-2]
        names = tuple(self._name(part) for part in parts[:-3] if part.type != "DOT")
        span = self._span(parts[0], parts[-1])
        if isinstance(inner, syntax.Slice):
            return syntax.Reference(span, names, inner)
        if len(names) > 1:
            self.diagnostics.append(
                Diagnostic(
                    "E0101",
                    "error",
                    "expected a slice",
                    Label(span, "a split is sliced as `[start:stop]`"),
                    help="write `[n:n+1]` with both ends for one sample",
                )
            )
        return syntax.TensorValue(span, names[0], inner)

    def _dims(self, parts: list[Any]) -> tuple[syntax.Name | syntax.Number, ...]:
        return tuple(self._bound(part) for part in parts if part.type != "COMMA")

    def _slice(self, parts: list[Any]) -> syntax.Slice:
        colon = next(index for index, part in enumerate(parts) if part.type == "COLON")
        start = self._bound(parts[0]) if colon else None
        stop = self._bound(parts[-1]) if colon < len(parts) - 1 else None
        return syntax.Slice(self._span(parts[0], parts[-1]), start, stop)

    def _bound(self, token: Token) -> syntax.Name | syntax.Number:
        return self._number([token]) if token.type == "INT" else self._name(token)

    # Calls and conditions

    def _named(self, parts: list[Any]) -> syntax.Argument:
        return syntax.Argument(self._span(parts[0], parts[2]), self._name(parts[0]), parts[2])

    def _argument(self, parts: list[Any]) -> syntax.Argument:
        part = parts[0]
        return part if isinstance(part, syntax.Argument) else syntax.Argument(part.span, None, part)

    def _call(self, parts: list[Any]) -> syntax.Call:
        opening = next(index for index, part in enumerate(parts) if type(part) is Token and part.type == "LPAR")
        path = tuple(self._name(part) for part in parts[:opening] if part.type != "DOT")
        return syntax.Call(
            self._span(parts[0], parts[-1]), path, _nodes(parts), self._span(parts[opening], parts[opening])
        )

    def _settings(self, parts: list[Any]) -> syntax.Settings:
        call = self._call(parts)
        return syntax.Settings(call.span, cast(Literal["evaluate", "profile"], parts[0].text), call)

    def _binary_sum(self, parts: list[Any]) -> Any:
        left, operator, right = parts
        depth = 1 + max(self._depths.get(id(left), 0), self._depths.get(id(right), 0))
        if depth > MAX_DEPTH:
            if depth == MAX_DEPTH + 1:
                self._depths[id(left)] = depth  # one report for the whole condition
                self.diagnostics.append(
                    Diagnostic(
                        "E0105",
                        "error",
                        f"a condition with more than {MAX_DEPTH} operations in a row",
                        Label(self._span(operator, operator), f"this is operation {depth}"),
                        help="split it into several `require`",
                    )
                )
            return left
        node = syntax.Binary(self._span(left, right), operator.text, left, right)
        self._depths[id(node)] = depth
        return node

    _binary_product = _binary_sum

    def _group(self, parts: list[Any]) -> Any:
        return parts[1]

    def _requirement(self, parts: list[Any]) -> syntax.Require:
        self._depths.clear()
        target = self._name(parts[5]) if len(parts) > 4 else None
        return syntax.Require(self._span(parts[0], parts[-1]), parts[1], parts[2].text, parts[3], target)

    def _pass_step(self, parts: list[Any]) -> syntax.PassStep:
        return syntax.PassStep(parts[0].span, parts[0])

    # Statements

    def _title(self, parts: list[Any]) -> syntax.Title:
        return syntax.Title(self._span(*parts), self._string(parts[1:]))

    def _import(self, parts: list[Any]) -> syntax.Import:
        return syntax.Import(self._span(*parts), self._string(parts[1:]))

    def _seed(self, parts: list[Any]) -> syntax.Seed:
        return syntax.Seed(self._span(*parts), parts[1])

    def _param(self, parts: list[Any]) -> syntax.Param:
        return syntax.Param(self._span(parts[0], parts[3]), self._name(parts[1]), parts[3])

    def _declaration(self, parts: list[Any]) -> syntax.Declaration:
        kind = cast(syntax.DeclarationKind, parts[0].text)
        return syntax.Declaration(self._span(parts[0], parts[3]), kind, self._name(parts[1]), parts[3])

    def _pipeline(self, parts: list[Any]) -> syntax.Pipeline:
        keyword, name, _, parent, brace, *steps, end = parts
        return syntax.Pipeline(
            self._span(keyword, end), self._name(name), parent, tuple(steps), self._span(keyword, brace)
        )

    def _value(self, parts: list[Any]) -> Any:
        return parts[0]

    def _start(self, parts: list[Any]) -> tuple[syntax.Statement, ...]:
        return tuple(parts)


def _nodes(parts: list[Any]) -> tuple[Any, ...]:
    return tuple(part for part in parts if type(part) is not Token)


def _whole(token: Token) -> int:
    digits = token.text.replace("_", "")
    return int(digits) if len(digits) < 10 else 10**9
