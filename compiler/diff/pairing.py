"""Which operator of one graph is which of the other: the pairs found so far, and what speaks for a further one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mopt.diff.labels import Detail, Labels
from mopt.diff.model import How
from mopt.diff.prints import Prints
from mopt.diff.scope import COMMUTATIVE, Kind, Scope, Source, Use

SMALL = 8
"""Weights with fewer elements (axes, limits, epsilons) say little about which operator reads them."""


_FAR = 16
"""Unpaired operators that are looked through, at most."""


@dataclass
class Evidence:
    """What speaks for and against one pair of operators.

    `agree` counts neighbours paired with each other in the same slot, `bypassed` those that are so but for operators
    that came or went in between, `conflict` those paired otherwise; `alike` is what the two have in common by
    themselves, `unlike` what differs.
    """

    agree: float = 0.0
    bypassed: float = 0.0
    conflict: float = 0.0
    alike: float = 0.0
    unlike: float = 0.0

    @property
    def score(self) -> float:
        """A number to compare pairs by; no probability."""
        return 2 * self.agree + self.bypassed - 1.5 * self.conflict + self.alike - 0.75 * self.unlike


class Pairing:
    """A partial one-to-one map between the operators of two scopes."""

    def __init__(self, a: Scope, b: Scope, labels: tuple[Labels, Labels], prints: Prints) -> None:
        self.a, self.b, self.prints, self.labels = a, b, prints, labels
        self.to_b = [-1] * len(a.operators)
        self.to_a = [-1] * len(b.operators)
        self.how: dict[int, How] = {}
        self.origins: tuple[list[tuple[str, ...]], list[tuple[str, ...]]] | None = None

    def add(self, x: int, y: int, how: How) -> None:
        """Pair operator `x` of the first scope with `y` of the second."""
        assert self.to_b[x] < 0 and self.to_a[y] < 0
        self.to_b[x], self.to_a[y] = y, x
        self.how[x] = how

    def free(self, x: int, y: int) -> bool:
        """Tell whether both are unpaired and of one operator type."""
        return self.to_b[x] < 0 and self.to_a[y] < 0 and self.a.types[x] == self.b.types[y]

    def refined(self, detail: Detail, radius: int) -> tuple[list[int], list[int]]:
        """Return both sides' labels, coloured by the pairs so far."""
        return (
            self.labels[0].refined(detail, radius, self.to_b, range(len(self.to_b))),
            self.labels[1].refined(detail, radius, self.to_a, self.to_a),
        )

    def corresponds(self, sa: Source, sb: Source) -> bool:
        """Tell whether two sources stand for one value (weights: whether both are weights)."""
        if sa.kind != sb.kind:
            return False
        if sa.kind == Kind.NODE:
            return self.to_b[sa.number] == sb.number and sa.output == sb.output
        if sa.kind in (Kind.ABSENT, Kind.WEIGHT):
            return True
        return self.labels[0].colour(sa) == self.labels[1].colour(sb)

    def slots(self, x: int, y: int) -> list[tuple[Source, Source]]:
        """Return what two operators read, slot by slot; where order means nothing, aligned by correspondence."""
        sa = self.a.sources[x][: self.a.explicit[x]]
        sb = self.b.sources[y][: self.b.explicit[y]]
        if self.a.types[x] in COMMUTATIVE and len(sa) == len(sb) > 1:
            sb = self._aligned(sa, sb)
        width = max(len(sa), len(sb))
        absent = Source(Kind.ABSENT)
        return list(zip(sa + [absent] * (width - len(sa)), sb + [absent] * (width - len(sb)), strict=True))

    def evidence(self, x: int, y: int) -> Evidence:
        """Weigh a pair."""
        found = Evidence()
        for sa, sb in self.slots(x, y):
            if sa.kind == Kind.WEIGHT and sb.kind == Kind.WEIGHT:
                same, weight = self._alike(sa, sb)
                found.alike += same * weight
                found.unlike += (1 - same) * min(weight, 1)
            elif sa.kind == sb.kind == Kind.ABSENT:
                continue
            elif self.corresponds(sa, sb):
                found.agree += 1
            else:
                self._disagree(sa, sb, found)
        self._weigh_readers(x, y, found)
        attributes_a, attributes_b = self.a.attributes[x], self.b.attributes[y]
        if attributes_a == attributes_b:
            found.alike += 1
        else:
            names = attributes_a.keys() | attributes_b.keys()
            found.unlike += sum(attributes_a.get(name) != attributes_b.get(name) for name in names)
        shapes = self.a.shapes[x], self.b.shapes[y]
        if shapes[0] is not None and shapes[1] is not None:
            found.alike += 0.5 * (shapes[0] == shapes[1])
            found.unlike += 0.5 * (shapes[0] != shapes[1])
        found.alike += self._provenance(x, y)
        if self.a.operators[x].name == self.b.operators[y].name:
            found.alike += 0.01  # a tie-break only: names alone never pair
        return found

    def _weigh_readers(self, x: int, y: int, found: Evidence) -> None:
        outputs = min(len(self.a.operators[x].outputs), len(self.b.operators[y].outputs))
        for output in range(outputs):
            sa, sb = Source(Kind.NODE, x, output), Source(Kind.NODE, y, output)
            wanted = {(use.operator, self.labels[1].slot_key(use)) for use in self.b.feeds(sb)}
            for use in self.a.feeds(sa):
                partner = self.to_b[use.operator]
                if partner < 0:
                    continue
                if (partner, self.labels[0].slot_key(use)) in wanted:
                    found.agree += 1
                else:
                    self._disagree(sa, self._read_instead(use, partner), found, own=x)
            exits_a, exits_b = self.labels[0].exits(sa), self.labels[1].exits(sb)
            shared = sum(colour in exits_b for colour in exits_a)
            found.agree += shared
            found.conflict += 0.5 * (len(exits_a) - shared + len(exits_b) - shared)

    def _read_instead(self, use: Use, partner: int) -> Source:
        """Return what an operator's partner reads in the slot of `use`."""
        sources = self.b.sources[partner]
        return sources[use.slot] if use.slot < len(sources) else Source(Kind.ABSENT)

    def _disagree(self, sa: Source, sb: Source, found: Evidence, own: int = -1) -> None:
        """Weigh two sources that do not correspond. `own` is an operator that counts as paired."""
        free_a = sa.kind == Kind.NODE and self.to_b[sa.number] < 0 and sa.number != own
        free_b = sb.kind == Kind.NODE and self.to_a[sb.number] < 0
        if free_a and free_b:
            return
        through_a = free_a and any(self.corresponds(above, sb) for above in _above(self.a, self.to_b, sa))
        if through_a or (free_b and any(self.corresponds(sa, above) for above in _above(self.b, self.to_a, sb))):
            found.bypassed += 1
        elif sa.kind != sb.kind:
            found.conflict += 0.25 if free_a or free_b else 0.5
        else:
            found.conflict += 1

    def _alike(self, sa: Source, sb: Source) -> tuple[float, float]:
        """Return how alike two weights are (0 to 1), and how much that says."""
        a, b = self.a.weights[sa.number], self.b.weights[sb.number]
        elements = max(math.prod(a.shape), math.prod(b.shape))
        weight = 0.5 if elements < SMALL else 2.0
        if a.shape != b.shape:
            return (0.25 if len(a.shape) == len(b.shape) else 0.0), weight
        if not self.labels[0].weights:
            return float(a.tensor.dtype == b.tensor.dtype), weight
        return (1.0 if self.prints.of(a.tensor) == self.prints.of(b.tensor) else 0.5), weight

    def _provenance(self, x: int, y: int) -> float:
        if self.origins is None:
            return 0.0
        origins_a, origins_b = self.origins[0][x], self.origins[1][y]
        if not origins_a or not origins_b:
            return 0.0
        if origins_a == origins_b:
            return 3.0
        return 1.0 if set(origins_a) & set(origins_b) else -4.0

    def _aligned(self, sa: list[Source], sb: list[Source]) -> list[Source]:
        """Put the second operator's sources in the order of the first's, wherever they correspond."""
        left = list(sb)
        found: list[Source | None] = []
        for source in sa:
            match = next((other for other in left if self._is(source, other)), None)
            found.append(match)
            if match is not None:
                left.remove(match)
        for position, source in enumerate(sa):
            if found[position] is None:
                kin = next((other for other in left if other.kind == source.kind), left[0])
                left.remove(kin)
                found[position] = kin
        return [source for source in found if source is not None]

    def _is(self, sa: Source, sb: Source) -> bool:
        if sa.kind == Kind.WEIGHT and sb.kind == Kind.WEIGHT:
            a, b = self.a.weights[sa.number], self.b.weights[sb.number]
            if not self.labels[0].weights:
                return a.shape == b.shape
            return self.prints.of(a.tensor) == self.prints.of(b.tensor)
        return self.corresponds(sa, sb)


def _above(scope: Scope, pairs: Sequence[int], source: Source) -> Iterator[Source]:
    """Yield what a value is made of, seen through the unpaired operators right above it."""
    waiting, seen = [source], {source.number}
    while waiting and len(seen) <= _FAR:
        for above in scope.sources[waiting.pop().number]:
            if above.kind == Kind.NODE and pairs[above.number] < 0:
                if above.number not in seen:
                    seen.add(above.number)
                    waiting.append(above)
            elif above.kind != Kind.WEIGHT:
                yield above
