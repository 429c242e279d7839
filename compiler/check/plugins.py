"""Calls of a recipe to plug-in instances: which class, which option gets which argument, what is missing."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mopt.check.coerce import coerce_option
from mopt.check.references import closest_pass
from mopt.check.report import Report
from mopt.check.surroundings import FAILED, Surroundings
from mopt.check.wording import expected
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label, nearest
from mopt.plugin import Option, PluginError, Registry, schema
from mopt.values import DataRef, LossRef

_WORDS = {
    "passes": "pass",
    "sources": "model source",
    "data": "data source",
    "losses": "loss",
    "metrics": "metric",
    "targets": "target",
}


def find_class(call: syntax.Call, group: str, registry: Registry, report: Report) -> type | None:
    """Return the plug-in class that a call names, or None after a report."""
    name = call.name
    if not registry.has(group, name):
        known = registry.names(group)
        close = closest_pass(name, known) if group == "passes" else nearest(name, known)
        family = [one for one in known if one.startswith(name + ".")]
        if family:
            label = f"`{name}` is a family of passes"
            help: str | None = "it has " + ", ".join(f"`{one}`" for one in family)
        else:
            label = f"did you mean `{close}`?" if close else "not known here"
            listing = ", ".join(f"`{one}`" for one in known)
            help = "`mopt passes` lists them" if group == "passes" else f"there is {listing}" if known else None
        report.error("E0203", f"no {_WORDS[group]} is called `{name}`", call.name_span, label, help=help)
        return None
    try:
        found = registry.get(group, name)
        schema(found)
    except (PluginError, NameError, TypeError) as error:
        report.error("E0210", f"`{name}` can't be loaded", call.name_span, "its code is at fault", notes=[str(error)])
        return None
    return found


def instantiate(call: syntax.Call, cls: type, group: str, around: Surroundings) -> Any:
    """Return the plug-in that a call describes, every option typed, or None after a report."""
    bound = bind(call, schema(cls), call.name, group, around.report)
    values = read_options(bound, schema(cls), call.name, around)
    if values is None:
        return None
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        around.report.error("E0314", f"`{call.name}` refuses its options", call.name_span, str(error))
        return None


@dataclass(frozen=True)
class Bound:
    """The argument of each option; `good` is false if some did not fit, which is reported."""

    arguments: Mapping[str, syntax.Argument]
    good: bool


def bind(call: syntax.Call, options: Sequence[Option], owner: str, group: str | None, report: Report) -> Bound:
    """Say which argument each option gets."""
    names = [option.name for option in options]
    bound: dict[str, syntax.Argument] = {}
    good = True
    named: syntax.Argument | None = None
    for index, argument in enumerate(call.arguments):
        if argument.name is None:
            if named is not None:
                report.error(
                    "E0207",
                    "an option by position after one by name",
                    argument.span,
                    "give it by name too",
                    secondary=[Label(named.span, "given by name")],
                )
                good = False
                continue
            if index >= len(names):
                takes = f"{len(names)} option{'s' * (len(names) != 1)}" if names else "no options"
                report.error("E0207", f"`{owner}` takes {takes}", argument.span, "one too many", help=_listing(names))
                good = False
                continue
            bound[names[index]] = argument
            continue
        named = named or argument
        name = argument.name.text
        if name not in names:
            close = nearest(name, names)
            label = f"did you mean `{close}`?" if close else "no such option"
            help = f"`mopt passes {owner}` lists its options" if group == "passes" and names else _listing(names)
            report.error("E0204", f"`{owner}` takes no option `{name}`", argument.name.span, label, help=help)
            good = False
            if close and close not in bound:
                bound[close] = argument  # so that it is not reported as missing as well
        elif name in bound:
            first = Label(bound[name].span, "first given here")
            report.error("E0206", f"option `{name}` is given twice", argument.span, "given again", secondary=[first])
            good = False
        else:
            bound[name] = argument
    for option in options:
        if option.required and option.name not in bound:
            _missing(call, option, owner, report)
            good = False
    return Bound(bound, good)


def _missing(call: syntax.Call, option: Option, owner: str, report: Report) -> None:
    wants = {one for one in (DataRef, LossRef) if _mentions(option.annotation, one)}
    span = call.name_span
    if wants:
        word = "data" if DataRef in wants else "a loss"
        example = (
            f"declare `data NAME = …` and give `{option.name}=NAME.train`"
            if DataRef in wants
            else f"declare `loss NAME = …`, or name a built-in one: `{option.name}=cross_entropy`"
        )
        report.error("E0404", f"`{owner}` needs {word}", span, f"no `{option.name}` is given", help=example)
        return
    report.error(
        "E0205",
        f"`{owner}` needs the option `{option.name}`",
        span,
        f"`{option.name}` is missing",
        help=f"`{option.name}` takes {expected(option.annotation)}" + (f": {option.help}" if option.help else ""),
    )


def _mentions(annotation: Any, wanted: type) -> bool:
    return annotation is wanted or any(_mentions(one, wanted) for one in typing.get_args(annotation))


def _listing(names: Sequence[str]) -> str:
    return "it takes " + ", ".join(f"`{name}`" for name in names) if names else "write it with empty parentheses"


def read_options(bound: Bound, options: Sequence[Option], owner: str, around: Surroundings) -> dict[str, Any] | None:
    """Return the typed value of every option that is given, or None if one is wrong."""
    values: dict[str, Any] = {}
    good = bound.good
    for option in options:
        argument = bound.arguments.get(option.name)
        if argument is None:
            continue
        values[option.name] = coerce_option(argument.value, option, owner, around)
        good = good and values[option.name] is not FAILED
    return values if good else None
