"""Labels of operators after Weisfeiler and Lehman: equal labels mean equal neighbourhoods.

A label starts as what an operator is and is refined by its neighbours' labels, slot by slot, `radius` times.
Operators already paired keep one colour on both sides, so that every pair sharpens the labels around it.
(Weisfeiler & Lehman 1968; Shervashidze et al. 2011 for the form over labelled graphs.)
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from enum import IntEnum

from mopt.diff.prints import Prints
from mopt.diff.scope import COMMUTATIVE, Kind, Scope, Source, Use


class Detail(IntEnum):
    """How much of an operator its first label takes in."""

    CONTENTS = 0  # type, attributes, bodies, weights with their contents
    SHAPES = 1  # weights by element type and shape only
    TYPES = 2  # type, and which slots hold weights
    CORE = 3  # type, attributes and the shape of the largest weight: a bias may have come or gone
    OPERATOR = 4  # type alone


class Interner:
    """Numbers for labels: equal keys get equal numbers, in one run over both graphs."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def __call__(self, key: Hashable) -> int:
        """Return the key's number."""
        return self._numbers.setdefault(key, len(self._numbers))


class Labels:
    """Labels of one scope's operators. `colours` are the shared colours of inputs and outer values."""

    def __init__(self, scope: Scope, side: int, prints: Prints, intern: Interner, *, weights: bool) -> None:
        self.scope, self.side, self.prints, self.intern, self.weights = scope, side, prints, intern, weights
        self.colours: dict[Source, Hashable] = {}
        self.exit_colours: dict[int, Hashable] = {}
        self._first: dict[Detail, list[int]] = {}
        self._descent: list[int] | None = None
        self._inner: dict[Scope, Labels] = {}
        self._captures: dict[int, list[Hashable]] = {}

    def first(self, detail: Detail) -> list[int]:
        """Return every operator's label before it looks at its neighbours."""
        if detail not in self._first:
            self._first[detail] = [self._own(number, detail) for number in range(len(self.scope.operators))]
        return self._first[detail]

    def colour(self, source: Source) -> Hashable:
        """Return the colour of what is no operator's output; what has no counterpart is told apart by side."""
        if source.kind == Kind.WEIGHT:
            return "weight"
        return self.colours.get(source, (source.kind, "unpaired", self.side, source.number))

    def exits(self, source: Source) -> list[Hashable]:
        """Return the colours of the graph outputs a value is."""
        return [self.exit_colours.get(i, (self.side, i)) for i in self.scope.exits.get(source, ())]

    def refined(self, detail: Detail, radius: int, pairs: Sequence[int], names: Sequence[int]) -> list[int]:
        """Return labels after `radius` rounds; `pairs[n]` is -1 or operator n's partner, `names[n]` its colour."""
        first = self.first(detail)
        labels = [
            self.intern(("pair", names[n])) if pairs[n] >= 0 else self.intern((detail, own))
            for n, own in enumerate(first)
        ]
        free = [n for n in range(len(first)) if pairs[n] < 0]
        for _ in range(radius):
            fresh = {n: self.intern((labels[n], self._above(n, labels), self._below(n, labels))) for n in free}
            for n, label in fresh.items():
                labels[n] = label
        return labels

    def ancestry(self) -> list[int]:
        """Return labels of all an operator's value depends on: equal ones mean equal values."""
        first = self.first(Detail.CONTENTS)
        labels: list[int] = []
        for number in range(len(first)):
            labels.append(self.intern(("ancestry", first[number], self._above(number, labels))))
        return labels

    def descent(self) -> list[int]:
        """Return labels of all that is made of an operator's outputs."""
        if self._descent is None:
            first = self.first(Detail.CONTENTS)
            labels = [0] * len(first)
            for number in reversed(range(len(first))):
                labels[number] = self.intern(("descent", first[number], self._below(number, labels)))
            self._descent = labels
        return self._descent

    def slot_key(self, use: Use) -> Hashable:
        """Return what a slot is to its operator: its position, unless order means nothing or a body reads it."""
        if use.slot >= self.scope.explicit[use.operator]:
            return self._capture_keys(use.operator)[use.slot - self.scope.explicit[use.operator]]
        return -1 if self.scope.types[use.operator] in COMMUTATIVE else use.slot

    def _capture_keys(self, number: int) -> list[Hashable]:
        """Return what each captured value is used for in the bodies: their order says nothing."""
        if number not in self._captures:
            captured = self.scope.sources[number][self.scope.explicit[number] :]
            values = [self.scope.value(source) for source in captured]
            bodies = self.scope.bodies[number].items()
            self._captures[number] = [
                self.intern(
                    (
                        "capture",
                        tuple(
                            (name, self._labels_of(body)._role(body.where[value]))
                            for name, body in bodies
                            if value in body.where
                        ),
                    )
                )
                for value in values
                if value is not None
            ]
        return self._captures[number]

    def _role(self, source: Source) -> Hashable:
        labels = self.descent()
        uses = sorted(self.intern((labels[use.operator], self.slot_key(use))) for use in self.scope.feeds(source))
        return (tuple(uses), tuple(self.scope.exits.get(source, ())))

    def _above(self, number: int, labels: Sequence[int]) -> tuple[Hashable, ...]:
        explicit = self.scope.explicit[number]
        keys = [self._reading(source, labels) for source in self.scope.sources[number][:explicit]]
        if self.scope.types[number] in COMMUTATIVE:
            keys.sort()
        if not self.scope.bodies[number]:
            return tuple(keys)
        captured = zip(self._capture_keys(number), self.scope.sources[number][explicit:], strict=True)
        keys += sorted(self.intern((key, self._reading(source, labels))) for key, source in captured)
        return tuple(keys)

    def _reading(self, source: Source, labels: Sequence[int]) -> int:
        if source.kind != Kind.NODE:
            return self.intern(self.colour(source))
        # In an invalid, cyclic graph an ancestor may not have its label yet.
        label = labels[source.number] if source.number < len(labels) else -1
        return self.intern((label, source.output))

    def _below(self, number: int, labels: Sequence[int]) -> tuple[Hashable, ...]:
        keys: list[int] = []
        for output in range(len(self.scope.operators[number].outputs)):
            source = Source(Kind.NODE, number, output)
            keys.extend(
                self.intern((output, self.slot_key(use), labels[use.operator])) for use in self.scope.feeds(source)
            )
            keys.extend(self.intern((output, "exit", colour)) for colour in self.exits(source))
        return tuple(sorted(keys))

    def _own(self, number: int, detail: Detail) -> int:
        scope = self.scope
        if detail == Detail.OPERATOR:
            return self.intern(("operator", scope.types[number]))
        if detail == Detail.CORE:
            held = [scope.weights[s.number].shape for s in scope.sources[number] if s.kind == Kind.WEIGHT]
            attributes = tuple(scope.attributes[number].items())
            return self.intern(("core", scope.types[number], attributes, max(held, key=math.prod, default=())))
        slots = tuple(self._weight(source, detail) for source in scope.sources[number][: scope.explicit[number]])
        if scope.types[number] in COMMUTATIVE:
            slots = tuple(sorted(slots, key=repr))
        key: tuple[Hashable, ...] = (scope.types[number], slots, len(scope.operators[number].outputs))
        if detail != Detail.TYPES:
            key += (tuple(scope.attributes[number].items()),)
            key += tuple((name, self._body(body, detail)) for name, body in scope.bodies[number].items())
        return self.intern(("own", *key))

    def _weight(self, source: Source, detail: Detail) -> Hashable:
        if source.kind != Kind.WEIGHT:
            return int(source.kind == Kind.ABSENT)
        held = self.scope.weights[source.number]
        if detail == Detail.TYPES:
            return "weight"
        if detail == Detail.SHAPES or not self.weights:
            return (held.tensor.dtype.name, held.shape)
        return self.prints.of(held.tensor)

    def _labels_of(self, body: Scope) -> Labels:
        """Return labels of a body as seen from outside: inputs and outputs by position, captures by their use."""
        if body not in self._inner:
            inner = Labels(body, self.side, self.prints, self.intern, weights=self.weights)
            inner.exit_colours = {i: i for i in range(len(body.outputs))}
            inner.colours = {Source(Kind.INPUT, i): ("input", i) for i in range(len(body.inputs))}
            outer = [Source(Kind.OUTER, i) for i in range(len(body.outer))]
            inner.colours |= {source: ("outer", inner._role(source)) for source in outer}
            self._inner[body] = inner
        return self._inner[body]

    def _body(self, body: Scope, detail: Detail) -> Hashable:
        inner = self._labels_of(body)
        if detail == Detail.SHAPES:
            return tuple(sorted(inner.first(Detail.TYPES)))
        nodes = tuple(sorted(zip(inner.ancestry(), inner.descent(), strict=True)))
        direct = [
            (i, source.kind, inner.colours.get(source) or self._held(body, source))
            for i, source in enumerate(body.outputs)
            if source.kind != Kind.NODE
        ]
        return (nodes, tuple(direct))

    def _held(self, body: Scope, source: Source) -> Hashable:
        return self.prints.of(body.weights[source.number].tensor) if source.kind == Kind.WEIGHT else None
