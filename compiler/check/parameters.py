"""Parameters and what `--set` makes of them."""

from __future__ import annotations

from collections.abc import Mapping

from mopt.check import constants
from mopt.check.report import Report
from mopt.check.scope import Scope
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Diagnostic, Label, nearest
from mopt.grammar.parse import parse_value
from mopt.grammar.source import Source

_FINER = {("whole number", "number")}
"""(given, wanted): a whole number does for a number."""


def overridden(scope: Scope, overrides: Mapping[str, str], recipe: str, report: Report) -> dict[str, syntax.Value]:
    """Return the values that `--set` gives to parameters, each of the type of the parameter's default."""
    values: dict[str, syntax.Value] = {}
    for name, text in overrides.items():
        symbol = scope.get(name)
        if symbol is None or not isinstance(symbol.node, syntax.Param):
            if symbol is None and scope.may_exist(name):
                continue
            known = scope.names(("param",))
            close = nearest(name, known)
            listing = ", ".join(f"`{one}`" for one in known)
            help = f"did you mean `{close}`?" if close else f"it has {listing}" if known else "it has none"
            message = f"`--set {name}`: the recipe has no parameter of this name"
            report.add([Diagnostic("E0209", "error", message, path=recipe, help=help)])
            continue
        value = _value(name, text, symbol.node, report)
        if value is not None:
            values[name] = value
    return values


def _value(name: str, text: str, node: syntax.Param, report: Report) -> syntax.Value | None:
    source = Source(f"--set {name}", text)
    span = source.span(0, len(text))
    wanted = constants.kind(node.value)
    if wanted == "text" and not (len(text) > 1 and text[0] == text[-1] == '"'):
        return syntax.String(span, text)  # the shell has taken the quotes already
    declared = Label(node.value.span, "the type of the default counts")
    value, faults = parse_value(source)
    if value is None:
        first = faults[0]
        label = first.primary or Label(span)
        message = f"`--set {name}` takes {_article(wanted)}"
        report.error("E0310", message, label.span, label.text or first.message, secondary=[declared], help=first.help)
        return None
    members = value.alternatives if isinstance(value, syntax.AnyValue) else (value,)
    for member in members:
        given = constants.kind(member)
        if given != wanted and (given, wanted) not in _FINER:
            message = f"`--set {name}` takes {_article(wanted)}"
            report.error("E0310", message, member.span, f"this is {_article(given)}", secondary=[declared])
            return None
    return value


def check_constants(scope: Scope, values: Mapping[str, syntax.Value], report: Report) -> frozenset[str]:
    """Report parameters that are no constants, and return their names.

    Args:
        scope: the declarations.
        values: what `--set` gives.
        report: where it goes.
    """
    bad = set()
    for symbol in scope.symbols():
        if isinstance(symbol.node, syntax.Param):
            faults = Report()
            _check_constant(values.get(symbol.name, symbol.node.value), symbol.name, scope, faults)
            report.add(faults.diagnostics)
            if faults.failed:
                bad.add(symbol.name)
    return frozenset(bad)


def _check_constant(value: syntax.Value, name: str, scope: Scope, report: Report) -> None:
    if isinstance(value, syntax.Reference):
        bounds = (value.slice.start, value.slice.stop) if value.slice else ()
        for word in (value.parts[0], *(bound for bound in bounds if isinstance(bound, syntax.Name))):
            other = scope.get(word.text)
            if other is not None and isinstance(other.node, syntax.Param):
                what = "itself" if other.name == name else f"the parameter `{other.name}`"
                secondary = [other.label]
                report.error("E0313", f"`{name}` is not a constant", word.span, f"this is {what}", secondary=secondary)
    elif isinstance(value, syntax.AnyValue):
        kinds = [constants.kind(one) for one in value.alternatives]
        for one, kind in zip(value.alternatives, kinds, strict=True):
            if kind != kinds[0]:
                message = f"the alternatives of `{name}` are of unequal type"
                first = Label(value.alternatives[0].span, f"this is {_article(kinds[0])}")
                report.error("E0313", message, one.span, f"this is {_article(kind)}", secondary=[first])
        for one in value.alternatives:
            _check_constant(one, name, scope, report)
    elif isinstance(value, syntax.ListValue | syntax.MapValue):
        inner = value.items if isinstance(value, syntax.ListValue) else [entry.value for entry in value.entries]
        for one in inner:
            _check_constant(one, name, scope, report)


def _article(kind: str) -> str:
    return kind if kind in ("true or false", "N of M") else f"a {kind}"
