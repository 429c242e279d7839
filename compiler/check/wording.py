"""Values and options in words, for diagnostics."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from mopt.grammar import syntax
from mopt.grammar.format import value_text
from mopt.grammar.tokens import UNITS
from mopt.values import (
    ByteSize,
    DataRef,
    Duration,
    Location,
    LossRef,
    MetricRef,
    ModelRef,
    NofM,
    PythonRef,
    Ratio,
    TensorType,
)

_WORDS: dict[Any, tuple[str, str]] = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("`true` or `false`", "`true` or `false`"),
    str: ('a text (`"…"`)', "texts"),
    Ratio: ("a ratio (`30%`)", "ratios (`30%`)"),
    NofM: ("N of M (`2:4`)", "N of M (`2:4`)"),
    Duration: ("a duration (`10ms`)", "durations (`10ms`)"),
    ByteSize: ("a size (`4MiB`)", "sizes (`4MiB`)"),
    TensorType: ("a tensor type (`f32[N, 3]`)", "tensor types (`f32[N, 3]`)"),
    DataRef: ("data", "data"),
    ModelRef: ("a model or a pipeline", "models or pipelines"),
    LossRef: ("a loss", "losses"),
    MetricRef: ("a metric", "metrics"),
    Location: ("a path", "paths"),
    PythonRef: ('`"file.py:name"`', '`"file.py:name"`'),
    Any: ("a value", "values"),
    object: ("a value", "values"),
}


def expected(annotation: Any, many: bool = False) -> str:
    """Say what an option takes: `a ratio (…)`, `one of …`, `a list of texts`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(f"`{_choice_text(choice)}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(expected(one, many) for one in arguments if one is not type(None)))
    if is_list(annotation):
        inner = [one for one in arguments if one is not Ellipsis]
        counted = f"{len(inner)} " if origin is tuple and Ellipsis not in arguments else ""
        return f"{'lists' if many else 'a list'} of {counted}{expected(inner[0], many=True)}" if inner else "a list"
    if is_map(annotation):
        return f"{'maps' if many else 'a map'} of {expected(arguments[1], many=True)}" if arguments else "a map"
    words = _WORDS.get(annotation)
    if words is None:
        return str(getattr(annotation, "__doc__", "") or getattr(annotation, "__name__", annotation))
    return words[many]


def found(node: syntax.Value) -> str:
    """Say what a value is."""
    match node:
        case syntax.Number(unit=""):
            return f"the {'whole ' if isinstance(node.value, int) else ''}number `{_short(node.text)}`"
        case syntax.Number():
            return f"the {UNITS[node.unit][0]} `{node.text}`"
        case syntax.NofM():
            return f"`{node.n}:{node.m}`"
        case syntax.Boolean():
            return f"`{value_text(node)}`"
        case syntax.String():
            return f"the text `{_short(value_text(node))}`"
        case syntax.ListValue():
            return "a list"
        case syntax.MapValue():
            return "a map"
        case syntax.TensorValue():
            return f"the tensor type `{value_text(node)}`"
        case syntax.Reference():
            return f"the name `{_short(value_text(node))}`"
        case syntax.AnyValue():
            return "`any`"


def is_list(annotation: Any) -> bool:
    """Say whether an annotation is a tuple, a list or a sequence."""
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and not issubclass(origin, str) and issubclass(origin, Sequence)


def is_map(annotation: Any) -> bool:
    """Say whether an annotation is a mapping."""
    origin = typing.get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _choice_text(choice: object) -> str:
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:39] + "…"
