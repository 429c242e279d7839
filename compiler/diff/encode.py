"""Diffs as JSON: written and read by the model's own field types, with what follows from the fields beside them."""

from __future__ import annotations

import dataclasses
import types
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mopt.diff.model import Diff, Group, InterfaceChange, WeightChange, WeightFacts

SCHEMA = "mopt.diff"
VERSION = 1
"""Raised when a reader of the last version would misread the next; new fields do not raise it."""

DERIVED: dict[type, tuple[str, ...]] = {
    Diff: ("changes", "is_empty", "only_renames"),
    Group: ("kind", "pattern"),
    InterfaceChange: ("what",),
    WeightFacts: ("sparsity", "bits"),
    WeightChange: ("max_rel", "snr_db"),
}
"""Properties that are written along, so that a reader need not know how to compute them."""


def encode_diff(diff: Diff) -> dict[str, Any]:
    """Return a diff as JSON-ready values."""
    return {"schema": SCHEMA, "version": VERSION, "summary": diff.summary(), **_encode(diff)}


def decode_diff(document: Any) -> Diff:
    """Read a diff back from what `encode_diff` gave.

    Raises:
        ValueError: the document is no diff, or of a later version.
    """
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ValueError("not a mopt diff: its `schema` is missing or another")
    if document.get("version") != VERSION:
        raise ValueError(f"a diff of version {document.get('version')}; this mopt reads version {VERSION}")
    try:
        decoded = _decode(Diff, document)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a damaged mopt diff: {error}") from error
    assert isinstance(decoded, Diff)
    return decoded


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of an encoded diff."""
    definitions: dict[str, Any] = {}
    _define(Diff, definitions)
    root = definitions.pop("Diff")
    head = {
        "schema": {"const": SCHEMA},
        "version": {"const": VERSION},
        "summary": {"type": "string"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The difference between two modules",
        **root,
        "properties": {**head, **root["properties"]},
        "required": [*head, *root["required"]],
        "$defs": dict(sorted(definitions.items())),
    }


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        told = {field.name: _encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return told | {name: _encode(getattr(value, name)) for name in DERIVED.get(type(value), ())}
    return [_encode(item) for item in value] if isinstance(value, tuple) else value


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _decode(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        options = [option for option in arguments if option is not type(None)]
        return _decode(options[0], value) if len(options) == 1 else _plain_or_tuple(options, value)
    if origin is tuple:
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_decode(part, item) for part, item in zip(inner, value, strict=True))
    if dataclasses.is_dataclass(kind):
        hints = _hints(kind)  # type: ignore[arg-type]
        return kind(**{name: _decode(hints[name], value[name]) for name in hints})  # type: ignore[operator]
    return value


def _plain_or_tuple(options: list[Any], value: Any) -> Any:
    tuples = [option for option in options if get_origin(option) is tuple]
    return _decode(tuples[0], value) if tuples and isinstance(value, list) else value


def _define(cls: type, definitions: dict[str, Any]) -> None:
    if cls.__name__ in definitions:
        return
    definitions[cls.__name__] = entry = {"type": "object", "properties": {}, "required": []}
    properties: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        properties[field.name] = _schema(_hints(cls)[field.name], definitions)
    for name in DERIVED.get(cls, ()):
        getter = getattr(cls, name).fget
        properties[name] = _schema(get_type_hints(getter)["return"], definitions)
    entry["properties"], entry["required"] = properties, list(properties)


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return {"type": "array", "items": _schema(arguments[0], definitions)}
        inner = [_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": inner, "minItems": len(inner), "maxItems": len(inner)}
    if dataclasses.is_dataclass(kind):
        _define(kind, definitions)  # type: ignore[arg-type]
        return {"$ref": f"#/$defs/{kind.__name__}"}  # type: ignore[union-attr]
    names = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
    return {"type": names[kind]}
