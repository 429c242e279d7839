"""Whether a value has the form of a type at all, and what to say if it has not."""

from __future__ import annotations

import types
import typing
from typing import Any

from mopt.check import constants
from mopt.check.scope import Scope
from mopt.check.wording import is_list, is_map
from mopt.grammar import syntax
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


def choice_names(annotation: Any) -> frozenset[str]:
    """Return the symbols that an annotation has as choices, in any of its parts."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return frozenset(str(choice) for choice in arguments)
    return frozenset(name for one in arguments if one is not Ellipsis for name in choice_names(one))


def fits(node: syntax.Value, annotation: Any, scope: Scope) -> bool:
    """Say whether a value has the form of a type; whether it is a right one is another matter."""
    origin = typing.get_origin(annotation)
    if annotation in (Any, object):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(node, arm, scope) for arm in typing.get_args(annotation))
    if origin is typing.Literal:
        choices = typing.get_args(annotation)
        if isinstance(node, syntax.Reference | syntax.String):
            text = node.value if isinstance(node, syntax.String) else node.text
            return text in choices
        return isinstance(node, syntax.Number | syntax.Boolean) and any(
            node.value == choice and type(node.value) is type(choice) for choice in choices
        )
    if is_list(annotation):
        if isinstance(node, syntax.ListValue):
            return True
        arguments = typing.get_args(annotation)
        return bool(arguments) and not is_list(arguments[0]) and fits(node, arguments[0], scope)
    if is_map(annotation):
        return isinstance(node, syntax.MapValue)
    if isinstance(node, syntax.AnyValue):
        return True
    if isinstance(node, syntax.Reference):
        symbol = scope.get(node.parts[0].text)
        if symbol and isinstance(symbol.node, syntax.Param) and len(node.parts) == 1 and node.slice is None:
            return True
        return annotation in (DataRef, ModelRef, LossRef, MetricRef) or hasattr(annotation, "from_syntax")
    if isinstance(node, syntax.Number):
        kind = constants.kind(node)
        return annotation in {
            "whole number": (int, float),
            "number": (float,),
            "ratio": (Ratio, float),
            "duration": (Duration,),
            "size": (ByteSize,),
        }.get(kind, ())
    if isinstance(node, syntax.String):
        if annotation is PythonRef:
            return True
        return annotation in (str, Location) or hasattr(annotation, "from_syntax")
    return (isinstance(node, syntax.Boolean) and annotation is bool) or (
        (isinstance(node, syntax.NofM) and annotation is NofM)
        or (isinstance(node, syntax.TensorValue) and annotation is TensorType)
    )


def hint(node: syntax.Value, annotation: Any) -> str | None:
    """Return how a value of that type would be written, where the slip is a frequent one."""
    if is_list(annotation) and typing.get_args(annotation):
        annotation = typing.get_args(annotation)[0]
    if isinstance(node, syntax.Number) and annotation is Ratio and not node.unit:
        percent = f"{float(node.value) * 100:.12g}" if 0 < node.value <= 1 else f"{node.value:.12g}"
        return f"a ratio is written with a percent sign: `{percent}%`"
    if isinstance(node, syntax.Number) and annotation in (Duration, ByteSize) and not node.unit:
        return f"give its unit: `{node.text}{'ms' if annotation is Duration else 'MiB'}`, say"
    if isinstance(node, syntax.Reference) and annotation in (str, Location, PythonRef):
        return f'texts are quoted: `"{node.text}"`'
    return None


def bounds_text(annotation: Any, low: float | None, high: float | None) -> str:
    """Say between which bounds a number must lie."""

    def text(bound: float) -> str:
        return str(annotation(bound)) if annotation is not float else f"{bound:.12g}"

    if low is not None and high is not None:
        return f"between {text(low)} and {text(high)}"
    return f"at least {text(low)}" if low is not None else f"at most {text(typing.cast(float, high))}"
