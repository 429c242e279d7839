"""Which names a recipe mentions, wherever they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mopt.check.variants import references_of
from mopt.grammar import syntax


def mentioned(statements: Iterable[syntax.Statement]) -> set[str]:
    """Return the first word of every name that is used as a value."""
    found: set[str] = set()
    for reference in _references(statements):
        found.add(reference.parts[0].text)
        if reference.slice is not None:
            bounds = (reference.slice.start, reference.slice.stop)
            found.update(bound.text for bound in bounds if isinstance(bound, syntax.Name))
    return found


def _references(statements: Iterable[syntax.Statement]) -> Iterator[syntax.Reference]:
    for node in statements:
        match node:
            case syntax.Param() | syntax.Seed():
                yield from _inside(node.value)
            case syntax.Declaration() | syntax.Settings():
                yield from _of_call(node.call)
            case syntax.Pipeline():
                yield from _inside(node.parent)
                for step in node.steps:
                    yield from references_of(step) if isinstance(step, syntax.Require) else _of_call(step.call)


def _of_call(call: syntax.Call) -> Iterator[syntax.Reference]:
    for argument in call.arguments:
        yield from _inside(argument.value)


def _inside(node: syntax.Value) -> Iterator[syntax.Reference]:
    match node:
        case syntax.Reference():
            yield node
        case syntax.ListValue():
            for item in node.items:
                yield from _inside(item)
        case syntax.AnyValue():
            for item in node.alternatives:
                yield from _inside(item)
        case syntax.MapValue():
            for entry in node.entries:
                yield from _inside(entry.value)
