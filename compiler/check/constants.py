"""Literals of the language as Python values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mopt.grammar import syntax
from mopt.grammar.format import value_text
from mopt.grammar.tokens import UNITS
from mopt.values import ByteSize, Duration, NofM, Ratio, TensorType

Resolve = Callable[[syntax.Reference], Any]


def number(node: syntax.Number) -> int | float | Ratio | Duration | ByteSize:
    """Return a number with its unit: a `Ratio`, seconds, bytes, or plain."""
    if not node.unit:
        return node.value
    kind, scale = UNITS[node.unit]
    if kind == "ratio":
        return Ratio(float(node.value) / 100)
    if kind == "duration":
        # 1e-3 is not exact: dividing by the integer is, for all that people write.
        return Duration(node.value * scale if scale >= 1 else node.value / round(1 / scale))
    return ByteSize(round(node.value * scale))


def plain(node: syntax.Value) -> object:
    """Return any value as Python data; names stay texts, alternatives become a tuple."""
    match node:
        case syntax.Number():
            return number(node)
        case syntax.NofM():
            return NofM(node.n, node.m)
        case syntax.Boolean() | syntax.String():
            return node.value
        case syntax.ListValue():
            return tuple(plain(item) for item in node.items)
        case syntax.AnyValue():
            return tuple(plain(item) for item in node.alternatives)
        case syntax.MapValue():
            return {entry.key_text: plain(entry.value) for entry in node.entries}
        case syntax.TensorValue():
            return TensorType(node.dtype.text, dimensions(node))
        case syntax.Reference():
            return value_text(node)


def dimensions(node: syntax.TensorValue) -> tuple[int | str, ...]:
    """Return the dimensions of a tensor type."""
    return tuple(int(dim.value) if isinstance(dim, syntax.Number) else dim.text for dim in node.dims)


def kind(node: syntax.Value) -> str:
    """Return the type of a constant, as parameters are typed."""
    match node:
        case syntax.Number(unit=""):
            return "whole number" if isinstance(node.value, int) else "number"
        case syntax.Number():
            return UNITS[node.unit][0]
        case syntax.NofM():
            return "N of M"
        case syntax.Boolean():
            return "true or false"
        case syntax.String():
            return "text"
        case syntax.ListValue():
            return "list"
        case syntax.MapValue():
            return "map"
        case syntax.TensorValue():
            return "tensor type"
        case syntax.Reference():
            return "name"
        case syntax.AnyValue():
            return kind(node.alternatives[0]) if node.alternatives else "list"
