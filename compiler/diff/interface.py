"""The model's inputs and outputs: which is which on the other side, and how they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import onnx_ir as ir
from mopt.diff.model import InterfaceChange, TensorFacts
from mopt.ir.dtypes import dims, type_word


def tensor_facts(value: ir.Value) -> TensorFacts:
    """Return a value's name, element type and shape."""
    word = type_word(value.type)
    return TensorFacts(value.name or "", None if word == "?" else word, dims(value.shape))


def align(a: Sequence[ir.Value], b: Sequence[ir.Value]) -> dict[int, int]:
    """Pair inputs (or outputs) of a model: by name, which callers go by; then, in order, what could be renamed."""
    places = {value.name: position for position, value in enumerate(b)}
    pairs = {x: places[value.name] for x, value in enumerate(a) if value.name in places}
    left = [y for y in range(len(b)) if y not in pairs.values()]
    for x, value in enumerate(a):
        if x in pairs:
            continue
        for y in left:
            if _interchangeable(value, b[y]):
                pairs[x] = y
                left.remove(y)
                break
    return dict(sorted(pairs.items()))


def changes(
    kind: Literal["input", "output"], a: Sequence[ir.Value], b: Sequence[ir.Value], pairs: dict[int, int]
) -> list[InterfaceChange]:
    """List what differs between two lists of inputs or of outputs."""
    found = []
    for x, value in enumerate(a):
        y = pairs.get(x)
        change = InterfaceChange(kind, tensor_facts(value), None if y is None else tensor_facts(b[y]), x, y)
        # A position follows from what was added or removed before it; only true reordering is a change.
        moved = y is not None and _rank(x, pairs) != _rank_of_value(y, pairs)
        if change.after is None or set(change.what) - {"moved"} or moved:
            found.append(change)
    taken = set(pairs.values())
    found += [InterfaceChange(kind, None, tensor_facts(value), None, y) for y, value in enumerate(b) if y not in taken]
    return found


def _rank(x: int, pairs: dict[int, int]) -> int:
    return sum(other < x for other in pairs)


def _rank_of_value(y: int, pairs: dict[int, int]) -> int:
    return sum(other < y for other in pairs.values())


def _interchangeable(a: ir.Value, b: ir.Value) -> bool:
    first, second = dims(a.shape), dims(b.shape)
    return type_word(a.type) == type_word(b.type) and (first is None or second is None or len(first) == len(second))
