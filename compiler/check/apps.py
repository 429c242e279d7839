"""`app`: a program of several compressed models."""

from __future__ import annotations

from typing import Any

from mopt.check.coerce import Coercion
from mopt.check.surroundings import FAILED, Site, Surroundings
from mopt.check.wording import expected
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label
from mopt.recipe import AppDecl, Place
from mopt.values import ModelRef, PythonRef


def check_app(node: syntax.Declaration, around: Surroundings) -> AppDecl | None:
    """Return an app, or None after a report. Options that name pipelines are its parts, all others its settings."""
    call, report = node.call, around.report
    if call.name != "python":
        message = f"no kind of app is called `{call.name}`"
        report.error("E0203", message, call.name_span, "write `python`", help="there is `python`")
        return None
    coercion = Coercion(around)
    program: Any = None
    parts: dict[str, str] = {}
    options: dict[str, object] = {}
    seen: dict[str, syntax.Argument] = {}
    good = True
    for argument in call.arguments:
        if argument.name is None:
            if program is not None:
                report.error("E0207", "`python` takes one option by position", argument.span, "one too many")
                good = False
                continue
            program = coercion.value(argument.value, PythonRef, Site("an app"))
            good = good and program is not FAILED
            continue
        name = argument.name.text
        if name in seen:
            first = Label(seen[name].span, "first given here")
            report.error("E0206", f"option `{name}` is given twice", argument.span, "given again", secondary=[first])
            good = False
            continue
        seen[name] = argument
        value = coercion.value(argument.value, Any, Site(f"option `{name}` of the app"))
        good = good and value is not FAILED
        if isinstance(value, ModelRef):
            good = _add_part(name, value, argument, node, parts, around) and good
        else:
            options[name] = value
    if program is None:
        help = f"it takes {expected(PythonRef)} first, then its parts and settings by name"
        report.error("E0205", "`python` needs the program", call.name_span, 'no `"file.py:Class"` is given', help=help)
        return None
    if good and not parts:
        message = f"the app `{node.name.text}` has no part"
        help = "name the pipelines it uses: `detector=PIPELINE`"
        report.error("E0205", message, call.name_span, "no option names a pipeline", help=help)
        return None
    place = Place(node.span.path, node.name.span.line, node.name.span.column)
    return AppDecl(node.name.text, program, parts, options, place) if good else None


def _add_part(
    name: str,
    value: ModelRef,
    argument: syntax.Argument,
    node: syntax.Declaration,
    parts: dict[str, str],
    around: Surroundings,
) -> bool:
    symbol = around.scope.get(value.name)
    if symbol is not None and symbol.kind == "model":
        around.report.error(
            "E0306",
            f"a part of `{node.name.text}` is a pipeline",
            argument.value.span,
            f"`{value.name}` is a model",
            secondary=[symbol.label],
            help=f"use it as it is through `pipeline NAME = {value.name} {{ }}`",
        )
        return False
    parts[name] = value.name
    return True
