"""Pairing the operators of two graphs: provenance first, structure second, names never alone.

1. Operators that compute one value and of whose value the same is made are one operator (ancestry and descent).
2. Provenance pairs operators with the same origins, where structure does not contradict it.
3. Labels (`mopt.diff.labels`) that stand out on both sides are anchors, from detailed and wide to coarse and narrow.
4. From every new pair, pairing spreads along the graph, best-supported neighbours first.

Rewritten parts are what remains unpaired between anchors; `mopt.diff.groups` makes groups of it.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

from mopt.diff.align import inside_groups
from mopt.diff.labels import Detail, Interner, Labels
from mopt.diff.model import How
from mopt.diff.pairing import SMALL, Evidence, Pairing
from mopt.diff.prints import Prints
from mopt.diff.refine import Refiner
from mopt.diff.scope import Kind, Scope, Source
from mopt.ir import provenance

_SCHEDULE = (
    (Detail.CONTENTS, 3), (Detail.CONTENTS, 2), (Detail.CONTENTS, 1),
    (Detail.SHAPES, 3), (Detail.SHAPES, 2), (Detail.SHAPES, 1), (Detail.TYPES, 3), (Detail.TYPES, 2), (Detail.TYPES, 1),
)  # fmt: skip

_MAX_PRODUCT = 256
"""Readers of one value are compared all with all up to this many pairs; beyond, only those with equal labels."""


class Matcher:
    """Pairs the operators of two scopes. The result is `pairing`."""

    def __init__(self, a: Scope, b: Scope, labels: tuple[Labels, Labels], prints: Prints) -> None:
        self.a, self.b, self.prints, self.labels = a, b, prints, labels
        self.pairing = Pairing(a, b, labels, prints)
        self._heap: list[tuple[float, int, int]] = []
        self._put_off: set[tuple[int, int]] = set()
        self._phase: tuple[int, Detail | None] = (-1, None)

    def run(self) -> Pairing:
        """Find all pairs."""
        exact = self._exact()
        for x, y in self._provenance(exact):
            self._pair(x, y, "provenance")
        self._anchors(*exact, Detail.CONTENTS)
        self._weighty()
        self._seed()
        self._spread(Detail.CONTENTS)
        for detail, radius in _SCHEDULE:
            if not self._left():
                break
            self._anchors(*self.pairing.refined(detail, radius), detail)
        self._seed()
        self._spread(None)
        for in_order in (False, True):
            self._inside_groups(in_order=in_order)
        if Refiner(self.pairing).run():
            self._inside_groups(in_order=True)
        return self.pairing

    def _left(self) -> bool:
        return -1 in self.pairing.to_b and -1 in self.pairing.to_a

    def _exact(self) -> tuple[list[Hashable], list[Hashable]]:
        first, second = (list(zip(side.ancestry(), side.descent(), strict=True)) for side in self.labels)
        return list(first), list(second)

    def _provenance(self, exact: tuple[list[Hashable], list[Hashable]]) -> list[tuple[int, int]]:
        """Return the pairs that provenance gives, none where structure shows that it is of two sources."""
        origins = tuple([provenance.origins(node) for node in side.operators] for side in (self.a, self.b))
        first, second = origins
        keys = (
            [(self.a.types[n], names) if names else None for n, names in enumerate(first)],
            [(self.b.types[n], names) if names else None for n, names in enumerate(second)],
        )
        proposed = list(_unique(keys[0], keys[1]))
        if not proposed:
            return []
        structural: dict[int, int] = {}
        structural.update(_unique(*self.pairing.refined(Detail.CONTENTS, 2)))
        structural.update(_unique(*exact))
        back = {y: x for x, y in structural.items()}
        agreed = [(x, y) for x, y in proposed if structural.get(x, y) == y and back.get(y, x) == x]
        if len(proposed) - len(agreed) > max(1, len(proposed) // 20):
            return []
        self.pairing.origins = (first, second)
        return agreed

    def _anchors(self, first: Sequence[Hashable], second: Sequence[Hashable], detail: Detail) -> None:
        """Pair what stands out on both sides, spread, then pair what is left of equal labels, best first."""
        pairing = self.pairing
        free_a = [label if pairing.to_b[x] < 0 else None for x, label in enumerate(first)]
        free_b = [label if pairing.to_a[y] < 0 else None for y, label in enumerate(second)]
        for x, y in _unique(free_a, free_b):
            if pairing.free(x, y):
                self._pair(x, y, "structure")
        # Put off offers are worth a second look only where new pairs support them, or the test became easier.
        if self._phase != (len(pairing.how), detail):
            self._offer_again()
        self._spread(detail)
        self._phase = (len(pairing.how), detail)
        for xs, ys in _alike(free_a, free_b):
            if len(xs) != len(ys):
                continue
            for x in xs:
                options = [(y, pairing.evidence(x, y)) for y in ys if pairing.free(x, y)]
                if not options:
                    continue
                y, evidence = max(options, key=lambda option: (option[1].score, -option[0]))
                if detail == Detail.CONTENTS or (evidence.agree and not evidence.conflict and not evidence.bypassed):
                    self._pair(x, y, "structure")
                    self._spread(detail)

    def _inside_groups(self, *, in_order: bool) -> None:
        found = True
        while found and self._left():
            found = False
            for x, y, detail in list(inside_groups(self.pairing, in_order=in_order)):
                if not self.pairing.free(x, y):
                    continue
                evidence = self.pairing.evidence(x, y)
                if (
                    detail != Detail.OPERATOR
                    or evidence.conflict <= evidence.agree + evidence.bypassed + evidence.alike
                ):
                    self._pair(x, y, "structure")
                    found = True
            self._offer_again()
            self._spread(None)

    def _weighty(self) -> None:
        """Pair operators that alone on their side read a large weight of certain contents."""
        if not self.labels[0].weights:
            return
        keys = tuple(self._contents(side) for side in (self.a, self.b))
        for x, y in _unique(keys[0], keys[1]):
            if self.pairing.free(x, y):
                self._pair(x, y, "structure")

    def _contents(self, side: Scope) -> list[Hashable]:
        found: list[Hashable] = []
        for number, sources in enumerate(side.sources):
            prints = [
                (slot, self.prints.of(side.weights[source.number].tensor))
                for slot, source in enumerate(sources)
                if source.kind == Kind.WEIGHT and math.prod(side.weights[source.number].shape) >= SMALL
            ]
            found.append((side.types[number], tuple(prints)) if prints else None)
        return found

    def _pair(self, x: int, y: int, how: How) -> None:
        self.pairing.add(x, y, how)
        for sa, sb in self.pairing.slots(x, y):
            if sa.kind == sb.kind == Kind.NODE and sa.output == sb.output:
                self._offer(sa.number, sb.number)
        for output in range(min(len(self.a.operators[x].outputs), len(self.b.operators[y].outputs))):
            self._offer_readers(Source(Kind.NODE, x, output), Source(Kind.NODE, y, output))

    def _seed(self) -> None:
        """Offer the neighbours of the interface and of all pairs."""
        pairing = self.pairing
        for source in list(self.a.uses):
            if source.kind in (Kind.INPUT, Kind.OUTER):
                colour = self.labels[0].colour(source)
                for other in self.b.uses:
                    if other.kind == source.kind and self.labels[1].colour(other) == colour:
                        self._offer_readers(source, other)
        exits = {self.labels[1].exit_colours.get(i): source for i, source in enumerate(self.b.outputs)}
        for position, source in enumerate(self.a.outputs):
            colour = self.labels[0].exit_colours.get(position)
            partner = exits.get(colour) if colour is not None else None
            if partner is not None and source.kind == partner.kind == Kind.NODE and source.output == partner.output:
                self._offer(source.number, partner.number)
        self._offer_again()
        for x, y in enumerate(pairing.to_b):
            if y >= 0:
                for output in range(min(len(self.a.operators[x].outputs), len(self.b.operators[y].outputs))):
                    self._offer_readers(Source(Kind.NODE, x, output), Source(Kind.NODE, y, output))

    def _offer_readers(self, sa: Source, sb: Source) -> None:
        readers_a = [use for use in self.a.feeds(sa) if self.pairing.to_b[use.operator] < 0]
        readers_b = [use for use in self.b.feeds(sb) if self.pairing.to_a[use.operator] < 0]
        narrow = len(readers_a) * len(readers_b) > _MAX_PRODUCT
        if narrow:
            first, second = (side.first(Detail.CONTENTS) for side in self.labels)
        for use in readers_a:
            for other in readers_b:
                if self.labels[0].slot_key(use) != self.labels[1].slot_key(other):
                    continue
                if narrow and first[use.operator] != second[other.operator]:
                    continue
                self._offer(use.operator, other.operator)

    def _offer(self, x: int, y: int) -> None:
        if self.pairing.free(x, y):
            heapq.heappush(self._heap, (-self.pairing.evidence(x, y).score, x, y))

    def _offer_again(self) -> None:
        waiting, self._put_off = self._put_off, set()
        for x, y in waiting:
            self._offer(x, y)

    def _spread(self, detail: Detail | None) -> None:
        """Take offers, best first; what fails the test of this phase (the last is None) waits for a later one."""
        while self._heap:
            old, x, y = heapq.heappop(self._heap)
            if not self.pairing.free(x, y):
                continue
            evidence = self.pairing.evidence(x, y)
            if abs(evidence.score + old) > 1e-9:
                heapq.heappush(self._heap, (-evidence.score, x, y))
            elif self._good(evidence, detail):
                self._pair(x, y, "structure")
            else:
                self._put_off.add((x, y))

    @staticmethod
    def _good(evidence: Evidence, detail: Detail | None) -> bool:
        if not evidence.agree:
            return False
        if detail is None:
            return evidence.score > 0
        return not evidence.conflict and not evidence.bypassed and evidence.unlike <= (0.0, 1.0, 2.0)[detail]


def _unique(first: Sequence[Hashable], second: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Return the pairs of positions whose key stands once on either side; None is no key."""
    return [(xs[0], ys[0]) for xs, ys in _alike(first, second) if len(xs) == len(ys) == 1]


def _alike(first: Sequence[Hashable], second: Sequence[Hashable]) -> list[tuple[list[int], list[int]]]:
    """Return, for each key both sides have, its positions on either side, in order."""
    found: dict[Hashable, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for side, keys in enumerate((first, second)):
        for position, key in enumerate(keys):
            if key is not None:
                found[key][side].append(position)
    return [(xs, ys) for xs, ys in found.values() if xs and ys]


def colour_interface(
    a: Scope, b: Scope, labels: tuple[Labels, Labels], inputs: dict[int, int], outputs: dict[int, int]
) -> None:
    """Give inputs and outputs that are one on both sides (by position) one colour."""
    for x, y in inputs.items():
        labels[0].colours[Source(Kind.INPUT, x)] = labels[1].colours[Source(Kind.INPUT, y)] = ("input", x)
    for x, y in outputs.items():
        labels[0].exit_colours[x] = labels[1].exit_colours[y] = ("exit", x)


def new_labels(a: Scope, b: Scope, prints: Prints, *, weights: bool) -> tuple[Labels, Labels]:
    """Return empty labels of two scopes with one numbering."""
    intern = Interner()
    return Labels(a, 0, prints, intern, weights=weights), Labels(b, 1, prints, intern, weights=weights)
