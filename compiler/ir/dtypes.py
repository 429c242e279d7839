"""Element types in the language's words (`f32`, `i64`, `bool`, `str`; further ones as onnx_ir writes them)."""

from __future__ import annotations

import onnx_ir as ir

_WORDS = {ir.DataType.BOOL: "bool", ir.DataType.STRING: "str", ir.DataType.UNDEFINED: "?"}


def word(dtype: ir.DataType | None) -> str:
    """Return the word for an element type; `?` where it is unknown."""
    if dtype is None:
        return "?"
    return _WORDS.get(dtype) or dtype.short_name()


def from_word(text: str) -> ir.DataType:
    """Return the element type a word names.

    Raises:
        ValueError: no such word.
    """
    for dtype, known in _WORDS.items():
        if text == known:
            return dtype
    try:
        return ir.DataType.from_short_name(text)
    except TypeError as error:
        raise ValueError(f"`{text}` is not an element type") from error


def type_word(value_type: ir.TypeProtocol | None) -> str:
    """Return the word for a value's type; `sequence(f32)`, `optional(f32)`, `sparse(f32)` for what is no tensor."""
    if value_type is None:
        return "?"
    if isinstance(value_type, ir.SequenceType):
        return f"sequence({type_word(value_type.elem_type)})"
    if isinstance(value_type, ir.OptionalType):
        return f"optional({type_word(value_type.elem_type)})"
    if isinstance(value_type, ir.SparseTensorType):
        return f"sparse({word(value_type.dtype)})"
    return word(value_type.dtype)


def dims(shape: ir.Shape | None) -> tuple[int | str | None, ...] | None:
    """Return a shape as numbers, names and None (unknown); None where even the rank is unknown."""
    if shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)
