"""Dynamic dimensions of a model's inputs: how each is called, and what a set of sizes makes of a shape.

A dimension with a name is known by it wherever it occurs. One without (`None`, or the `?` that some exporters
write, which does not mean that two of them are equal) is known as `INPUT_AXIS`, for instance `x_2`: the name that
`mopt.ir` gives it when it loads a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mopt.ir.module import Module

_ANONYMOUS: Final = frozenset({"", "?", "-1", "None", "none", "unknown"})
_TERM: Final = re.compile(r"\s*([+*-]?)\s*([^+*\s-]+)")


@dataclass(frozen=True)
class Dimension:
    """A dynamic dimension: its key, and the (input name, axis) pairs where it occurs."""

    key: str
    places: tuple[tuple[str, int], ...]


def dimension_key(tensor: str, axis: int, size: int | str | None) -> str:
    """Return what a dynamic dimension of an input is called in a set of sizes."""
    if isinstance(size, str) and size not in _ANONYMOUS:
        return size
    return re.sub(r"\W", "_", tensor) + f"_{axis}"


def is_dynamic(size: int | str | None) -> bool:
    """Say whether a dimension has no size of its own; some exporters write -1 for that."""
    return not isinstance(size, int) or size < 0


def dynamic_dimensions(module: Module) -> tuple[Dimension, ...]:
    """Return the dynamic dimensions of a module's inputs in the order of their first occurrence."""
    places: dict[str, list[tuple[str, int]]] = {}
    for tensor in module.inputs:
        for axis, size in enumerate(tensor.shape):
            if is_dynamic(size):
                places.setdefault(dimension_key(tensor.name, axis, size), []).append((tensor.name, axis))
    return tuple(Dimension(key, tuple(found)) for key, found in places.items())


def resolve(tensor: str, shape: Iterable[int | str | None], bindings: Mapping[str, int]) -> tuple[int, ...]:
    """Return the concrete shape of an input. A name that is a sum or product of names (`past + seq`) is worked out.

    Raises:
        KeyError: a dimension has no size; its argument is the dimension's key.
    """
    sizes = []
    for axis, size in enumerate(shape):
        if isinstance(size, int) and size >= 0:
            sizes.append(size)
            continue
        key = dimension_key(tensor, axis, size)
        sizes.append(bindings[key] if key in bindings else _evaluate(key, bindings))
    return tuple(sizes)


def derived(key: str, known: Iterable[str]) -> bool:
    """Say whether a dimension's name is an expression over other dimensions' names."""
    try:
        _evaluate(key, dict.fromkeys((name for name in known if name != key), 1))
    except KeyError:
        return False
    return True


def _evaluate(text: str, bindings: Mapping[str, int]) -> int:
    """Work out `a + b`, `a - 1`, `2*a` (left to right; exporters write nothing deeper)."""
    terms = _TERM.findall(text)
    if not terms or "".join(sign + name for sign, name in terms) != re.sub(r"\s", "", text):
        raise KeyError(text)
    total = 0
    for sign, name in terms:
        if name not in bindings and not name.isdigit():
            raise KeyError(text)
        value = bindings[name] if name in bindings else int(name)
        total = total * value if sign == "*" else total - value if sign == "-" else total + value
    return total
