"""Mending pairs that were made too early: a hill climb over the places where two paired operators disagree.

Where a paired operator reads `p` on one side and `q` on the other, and those two are not each other's partners,
pairing them may be the better reading. A chain of such moves is kept as far as it raises the score of
all pairs it touches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mopt.diff.pairing import Pairing
from mopt.diff.scope import Kind, Scope, Source

_MAX_MOVES = 4000
_LONGEST_CHAIN = 8
_WIDEST = 4


class _Move(NamedTuple):
    """`p` was paired with `q`; before, `p` was paired with `old_q` and `old_p` with `q` (-1: with none)."""

    p: int
    q: int
    old_p: int
    old_q: int


class Refiner:
    """Improves a pairing in place."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing
        self._left = _MAX_MOVES

    def run(self) -> bool:
        """Make moves until none helps; tell whether any was made."""
        moved = False
        while self._left > 0 and any(self._chain(p, q) for p, q in list(self._disagreements())):
            moved = True
        return moved

    def _chain(self, p: int, q: int) -> bool:
        """Follow a move by those it suggests (a run of operators shifts by one); keep the best of its beginnings."""
        done: list[_Move] = []
        gain = best = 0.0
        kept = 0
        visited: set[tuple[int, int]] = set()
        following = [(p, q)]
        while following and len(done) < _LONGEST_CHAIN:
            steps = [(x, y) for x, y in dict.fromkeys(following) if (x, y) not in visited][:_WIDEST]
            visited.update(steps)
            found = [(self._gain(x, y), x, y) for x, y in steps if self._possible(x, y)]
            if not found:
                break
            more, x, y = max(found)
            done.append(self._set(x, y))
            gain += more
            if gain > best + 1e-6:
                best, kept = gain, len(done)
            following = list(self._around(x, y))
        for move in reversed(done[kept:]):
            self._unset(move)
        return kept > 0

    def _possible(self, p: int, q: int) -> bool:
        pairing = self.pairing
        if pairing.a.types[p] != pairing.b.types[q] or pairing.to_b[p] == q or self._left <= 0:
            return False
        return "provenance" not in (pairing.how.get(p), pairing.how.get(pairing.to_a[q]))

    def _gain(self, p: int, q: int) -> float:
        """Return by how much the score rises if `p` is paired with `q`."""
        self._left -= 1
        pairing = self.pairing
        old_q, old_p = pairing.to_b[p], pairing.to_a[q]
        near = _neighbours(pairing.a, p) | (_neighbours(pairing.a, old_p) if old_p >= 0 else set())
        other = _neighbours(pairing.b, q) | (_neighbours(pairing.b, old_q) if old_q >= 0 else set())
        near |= {pairing.to_a[n] for n in other if pairing.to_a[n] >= 0}
        before = self._score(near)
        move = self._set(p, q)
        after = self._score(near | {n for n in (p, old_p) if n >= 0})
        self._unset(move)
        return after - before

    def _disagreements(self) -> Iterator[tuple[int, int]]:
        """Yield operators of one type that stand in one slot, or read one value, without being partners."""
        pairing = self.pairing
        for x, y in enumerate(pairing.to_b):
            if y >= 0:
                yield from self._around(x, y)
        for source, colour in pairing.labels[0].colours.items():
            for other, same in pairing.labels[1].colours.items():
                if colour == same:
                    yield from self._readers(source, other)

    def _around(self, x: int, y: int) -> Iterator[tuple[int, int]]:
        pairing = self.pairing
        for sa, sb in pairing.slots(x, y):
            if sa.kind == sb.kind == Kind.NODE and sa.output == sb.output and pairing.to_b[sa.number] != sb.number:
                yield sa.number, sb.number
        for output in range(min(len(pairing.a.operators[x].outputs), len(pairing.b.operators[y].outputs))):
            yield from self._readers(Source(Kind.NODE, x, output), Source(Kind.NODE, y, output))

    def _readers(self, sa: Source, sb: Source) -> Iterator[tuple[int, int]]:
        pairing = self.pairing
        wanted = {use.operator: pairing.labels[1].slot_key(use) for use in pairing.b.feeds(sb)}
        lost_a = [use for use in pairing.a.feeds(sa) if pairing.to_b[use.operator] not in wanted]
        read = {use.operator for use in pairing.a.feeds(sa)}
        lost_b = [operator for operator in wanted if pairing.to_a[operator] not in read]
        for use in lost_a[:16]:
            key = pairing.labels[0].slot_key(use)
            for operator in lost_b[:16]:
                if wanted[operator] == key:
                    yield use.operator, operator

    def _set(self, p: int, q: int) -> _Move:
        """Pair `p` with `q`, and what they leave behind with each other where that can be."""
        pairing = self.pairing
        old_q, old_p = pairing.to_b[p], pairing.to_a[q]
        if old_q >= 0:
            pairing.to_a[old_q] = -1
        if old_p >= 0:
            pairing.to_b[old_p] = -1
            pairing.how.pop(old_p, None)
        pairing.to_b[p], pairing.to_a[q] = q, p
        pairing.how[p] = "structure"
        if old_p >= 0 and old_q >= 0:
            pairing.to_b[old_p], pairing.to_a[old_q] = old_q, old_p
            pairing.how[old_p] = "structure"
        return _Move(p, q, old_p, old_q)

    def _unset(self, move: _Move) -> None:
        pairing = self.pairing
        for x in (move.p, move.old_p):
            if x >= 0:
                pairing.to_b[x] = -1
                pairing.how.pop(x, None)
        for y in (move.q, move.old_q):
            if y >= 0:
                pairing.to_a[y] = -1
        for x, y in ((move.p, move.old_q), (move.old_p, move.q)):
            if x >= 0 and y >= 0:
                pairing.to_b[x], pairing.to_a[y] = y, x
                pairing.how[x] = "structure"

    def _score(self, operators: set[int]) -> float:
        pairing = self.pairing
        return sum(1.0 + pairing.evidence(x, pairing.to_b[x]).score for x in operators if pairing.to_b[x] >= 0)


def _neighbours(scope: Scope, number: int) -> set[int]:
    found = {number} | {source.number for source in scope.sources[number] if source.kind == Kind.NODE}
    for output in range(len(scope.operators[number].outputs)):
        found |= {use.operator for use in scope.feeds(Source(Kind.NODE, number, output))}
    return found
