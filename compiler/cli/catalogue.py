"""What `mopt passes` prints."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import click
from mopt.plugin import Option, PluginError, default_registry, schema
from mopt.plugin.options import canonical, describe_type


def list_passes(*, as_json: bool) -> None:
    """Print every pass with the first line of its description."""
    registry = default_registry()
    found = []
    for name in registry.names("passes"):
        try:
            summary = _summary(registry.get("passes", name))
        except PluginError as error:
            summary = f"unavailable: {error}"
        found.append({"name": name, "summary": summary, "origin": registry.origin("passes", name)})
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    width = max(len(entry["name"]) for entry in found)
    for entry in found:
        print(f"{entry['name']:<{width}}  {entry['summary']}")


def describe_pass(name: str, *, as_json: bool) -> int:
    """Print one pass in full."""
    registry = default_registry()
    try:
        cls = registry.get("passes", name)
    except PluginError as error:
        raise click.UsageError(str(error)) from error
    options = schema(cls)
    if as_json:
        print(json.dumps(_as_json(cls, options), ensure_ascii=False, indent=1))
        return 0
    print(f"{name}({', '.join(_signature(option) for option in options)})\n")
    print(textwrap.dedent("    " + (cls.__doc__ or "")).strip())
    if source := getattr(cls, "source", ""):
        print(f"\nsource: {source}")
    if options:
        print("\noptions:")
        width = max(len(option.name) for option in options)
        for option in options:
            default = "required" if option.required else f"default {_literal(option.default)}"
            print(f"  {option.name:<{width}}  {describe_type(option.annotation)}{_bounds(option)}; {default}")
            if option.help:
                print(f"  {'':<{width}}    {option.help}")
    print("\ncontract:")
    for line in _contract(cls):
        print(f"  {line}")
    return 0


def _summary(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""


def _signature(option: Option) -> str:
    return option.name if option.required else f"{option.name}={_literal(option.default)}"


def _literal(value: Any) -> str:
    from mopt.plan.render import value_text

    return "none" if value is None else value_text(value)


def _bounds(option: Option) -> str:
    if option.minimum is None and option.maximum is None:
        return ""
    low = "" if option.minimum is None else f"{option.minimum:g} ≤ "
    high = "" if option.maximum is None else f" ≤ {option.maximum:g}"
    return f" ({low}value{high})"


def _contract(cls: Any) -> list[str]:
    lines = ["the interface (names, order, sizes of inputs and outputs) is kept; the graph stays valid"]
    if cls.dtypes_may_change:
        lines.append("element types of the interface may change")
    if cls.equivalence is not None:
        lines.append(f"outputs stay equal within {cls.equivalence:g} of their range, checked after it ran")
    else:
        lines.append("lossy: the drift of the outputs is measured and reported")
    lines.extend(f"promises {kind}, which every later step must keep" for kind in cls.gives)
    lines.extend(f"ends earlier promises of {kind}" for kind in cls.breaks)
    if cls.needs_float:
        lines.append("refuses a graph that is quantised already")
    if cls.quantizes:
        lines.append("leaves a quantised graph")
    if cls.trains:
        lines.append("trains")
    return lines


def _as_json(cls: Any, options: tuple[Option, ...]) -> dict[str, Any]:
    return {
        "name": cls.name,
        "description": textwrap.dedent("    " + (cls.__doc__ or "")).strip(),
        "source": cls.source,
        "options": [
            {
                "name": option.name,
                "type": describe_type(option.annotation).replace("`", ""),
                "required": option.required,
                "default": None if option.required else canonical(option.default),
                "minimum": option.minimum,
                "maximum": option.maximum,
                "help": option.help,
            }
            for option in options
        ],
        "contract": _contract(cls),
    }
