"""Options as dataclass fields: one declaration serves the schema, the help text, the checker and the cache key."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from mopt.values import Location, NofM, PythonRef, Ratio


@dataclass(frozen=True)
class Option:
    """One option of a plug-in, read off a dataclass field.

    Attributes:
        name: what the recipe writes.
        annotation: the resolved Python type (a `Literal` for choices, `X | None` where it may be absent).
        required: it has no default.
        default: its default where not required.
        help: one line for `mopt passes`.
        minimum, maximum: inclusive bounds of a number, or None.
    """

    name: str
    annotation: Any
    required: bool
    default: Any
    help: str
    minimum: float | None
    maximum: float | None


def option(
    default: Any = MISSING,
    *,
    help: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    factory: Any = MISSING,
    keyword: Any = MISSING,
) -> Any:
    """Declare an option: a dataclass field with help and bounds; required without `default` or `factory`.

    `keyword` is the field's `kw_only`: by default what its class says.
    """
    metadata = {"help": help, "minimum": minimum, "maximum": maximum}
    if factory is not MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata, kw_only=keyword)
    if default is MISSING:
        return dataclasses.field(metadata=metadata, kw_only=keyword)
    return dataclasses.field(default=default, metadata=metadata, kw_only=keyword)


@functools.cache
def schema(cls: type) -> tuple[Option, ...]:
    """Return the options of a plug-in class in declaration order (positional arguments fill them in that order).

    Those of keyword-only fields come last, so that a base class can add options behind a subclass's own.
    """
    hints = typing.get_type_hints(cls)
    options = []
    for field in sorted(dataclasses.fields(cls), key=lambda field: field.kw_only is True):
        if not field.init:
            continue
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        options.append(
            Option(
                name=field.name,
                annotation=hints[field.name],
                required=default is MISSING,
                default=None if default is MISSING else default,
                help=str(field.metadata.get("help", "")),
                minimum=field.metadata.get("minimum"),
                maximum=field.metadata.get("maximum"),
            )
        )
    return tuple(options)


def describe_type(annotation: Any) -> str:
    """Name an option's type in the words of the language: `ratio`, `one of l1, l2`, `list of string`."""
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(part) for part in arguments if part is not type(None))
    if origin in (tuple, list):
        return f"list of {describe_type(arguments[0])}"
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return f"map of {describe_type(arguments[1])}" if arguments else "map"
    return _TYPE_WORDS.get(getattr(annotation, "__name__", str(annotation)), str(annotation))


_TYPE_WORDS = {
    "int": "integer",
    "float": "number",
    "bool": "`true` or `false`",
    "str": "string",
    "Ratio": "ratio (`30%`)",
    "NofM": "N of M (`2:4`)",
    "Duration": "duration (`10ms`)",
    "ByteSize": "size (`4MiB`)",
    "TensorType": "tensor type (`f32[N, 3]`)",
    "DataRef": "data",
    "ModelRef": "model or pipeline",
    "LossRef": "loss",
    "MetricRef": "metric",
    "Location": "path",
    "PythonRef": '`"file.py:name"`',
    "object": "value",
    "Any": "value",
}


def canonical(value: Any) -> Any:
    """Turn a plug-in instance or an option value into plain JSON data, the same for equal meanings.

    Paths are written as the recipe says them; whoever keys a cache adds the content of the files.

    Raises:
        TypeError: the value is of no kind that a recipe can hold.
    """
    if isinstance(value, Ratio):
        return {"ratio": float(value)}
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, NofM):
        return str(value)
    if isinstance(value, Location):
        return {"path": value.text}
    if isinstance(value, PythonRef):
        return {"path": value.file.text, "name": value.attribute}
    if isinstance(value, Mapping):
        return {str(key): canonical(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: canonical(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": getattr(value, "name", None) or type(value).__name__, **fields}
    raise TypeError(f"{type(value).__name__} is no recipe value")
