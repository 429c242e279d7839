"""Groups of unpaired operators: what stands, between the same values, where other operators stood.

Unpaired neighbours belong together, and so do unpaired operators of both sides that give one value to one reader.
A group of one side whose neighbour took over its work (a Conv that swallowed its BatchNormalization) takes that
neighbour in, as `kept`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from mopt.diff.pairing import Pairing
from mopt.diff.scope import Kind, Scope, Source
from mopt.ir import provenance

Member = tuple[int, int]
"""Side (0 or 1) and operator number."""


@dataclass
class Region:
    """A group before it is put into words: operator numbers of either side."""

    before: set[int] = field(default_factory=set)
    after: set[int] = field(default_factory=set)
    kept: set[tuple[int, int]] = field(default_factory=set)
    constant: bool = False
    duplicate: bool = False

    def sides(self) -> tuple[set[int], set[int]]:
        """Return the operators of both sides."""
        return self.before, self.after


class Regions:
    """The groups of one pair of scopes, and which of them an operator is in."""

    def __init__(self, pairing: Pairing, changed: set[int]) -> None:
        """Find the groups. `changed` are operators of the first side whose own work differs from their partner's."""
        self.pairing = pairing
        self._ancestry: tuple[list[int], ...] | None = None
        self._parent: dict[Member, Member] = {}
        sides = ((0, pairing.a, pairing.to_b), (1, pairing.b, pairing.to_a))
        for side, _, pairs in sides:
            for number, partner in enumerate(pairs):
                if partner < 0:
                    self._parent[side, number] = (side, number)
        for side, scope, _ in sides:
            self._join_neighbours(side, scope)
        self._join_across()
        self._join_by_origins()
        regions: dict[Member, Region] = defaultdict(Region)
        for side, number in self._parent:
            regions[self._root((side, number))].sides()[side].add(number)
        self.all = list(regions.values())
        self.of: tuple[dict[int, Region], dict[int, Region]] = ({}, {})
        for region in self.all:
            for side, numbers in enumerate(region.sides()):
                for number in numbers:
                    self.of[side][number] = region
        for above in (True, False):
            for region in self.all:
                self._settle(region, changed, above=above)

    def explains(self, sa: Source, sb: Source) -> bool:
        """Tell whether a slot reads something else only because a group came, went or was replaced."""
        region_a = self.of[0].get(sa.number) if sa.kind == Kind.NODE else None
        region_b = self.of[1].get(sb.number) if sb.kind == Kind.NODE else None
        if region_a is not None and region_a is region_b:
            return True
        if region_a is not None and self._bypassed(region_a, 0, sa, sb):
            return True
        return region_b is not None and self._bypassed(region_b, 1, sb, sa)

    def _bypassed(self, region: Region, side: int, inside: Source, other: Source) -> bool:
        """Tell whether `other` is what a group reads, a constant in its place, or the same computed elsewhere."""
        if other.kind == Kind.WEIGHT:
            return not region.sides()[1 - side] or region.constant
        pairs = ((source, other) if side == 0 else (other, source) for source in self.reads(region, side))
        return self._equal(side, inside, other) or any(self.pairing.corresponds(*pair) for pair in pairs)

    def reads(self, region: Region, side: int) -> list[Source]:
        """Return what a group reads from outside on one side, weights left out, each once."""
        scope, members = (self.pairing.a, self.pairing.b)[side], region.sides()[side]
        found: dict[Source, None] = {}
        for number in sorted(members):
            for source in scope.sources[number]:
                inside = source.kind == Kind.NODE and source.number in members
                if not inside and source.kind not in (Kind.WEIGHT, Kind.ABSENT):
                    found[source] = None
        return list(found)

    def gives(self, region: Region, side: int) -> list[Source]:
        """Return the values a group gives to what is outside on one side."""
        scope, members = (self.pairing.a, self.pairing.b)[side], region.sides()[side]
        found = []
        for number in sorted(members):
            for output in range(len(scope.operators[number].outputs)):
                source = Source(Kind.NODE, number, output)
                if source in scope.exits or any(use.operator not in members for use in scope.feeds(source)):
                    found.append(source)
        return found

    def _root(self, member: Member) -> Member:
        root = member
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[member] != root:
            self._parent[member], member = root, self._parent[member]
        return root

    def _join(self, first: Member, second: Member) -> None:
        if first in self._parent and second in self._parent:
            self._parent[self._root(second)] = self._root(first)

    def _join_neighbours(self, side: int, scope: Scope) -> None:
        for number, sources in enumerate(scope.sources):
            for source in sources:
                if source.kind == Kind.NODE:
                    self._join((side, number), (side, source.number))

    def _join_across(self) -> None:
        pairing = self.pairing
        for x, y in enumerate(pairing.to_b):
            if y < 0:
                continue
            for sa, sb in pairing.slots(x, y):
                if sa.kind == sb.kind == Kind.NODE:
                    self._join((0, sa.number), (1, sb.number))
        exits = {pairing.labels[1].exit_colours.get(i): source for i, source in enumerate(pairing.b.outputs)}
        for position, source in enumerate(pairing.a.outputs):
            colour = pairing.labels[0].exit_colours.get(position)
            other = exits.get(colour) if colour is not None else None
            if other is not None and source.kind == other.kind == Kind.NODE:
                self._join((0, source.number), (1, other.number))

    def _join_by_origins(self) -> None:
        if self.pairing.origins is None:
            return
        holders: dict[str, Member] = {}
        for number, names in enumerate(self.pairing.origins[0]):
            if (0, number) in self._parent:
                holders |= dict.fromkeys(names, (0, number))
        for number, names in enumerate(self.pairing.origins[1]):
            if (1, number) in self._parent:
                for name in names:
                    if name in holders:
                        self._join(holders[name], (1, number))

    def _settle(self, region: Region, changed: set[int], *, above: bool) -> None:
        """Say what a group became: a constant, a value computed elsewhere, or a neighbour's work."""
        sides = (0,) if not region.after else (1,) if not region.before else (0, 1)
        if region.kept or region.constant or region.duplicate:
            return
        if len(sides) == 1:
            counterparts = self._counterparts(region, sides[0])
            region.constant = bool(counterparts) and all(other.kind == Kind.WEIGHT for _, other in counterparts)
            region.duplicate = (
                bool(counterparts)
                and not region.constant
                and all(self._equal(sides[0], own, other) for own, other in counterparts)
            )
            if region.constant or region.duplicate:
                return
        # Whose own work changed above a group took part of its work over; below, only where nothing else replaces it.
        if above:
            feeders = [x for side in sides for x in self._feeders(region, side)]
            found = [x for x in dict.fromkeys(feeders) if x in changed]
        else:
            found = [x for x in self._only_reader(region, sides[0]) if x in changed and len(sides) == 1]
        for x in found:
            y = self.pairing.to_b[x]
            region.before.add(x)
            region.after.add(y)
            region.kept.add((x, y))
            self.of[0][x] = self.of[1][y] = region

    def _counterparts(self, region: Region, side: int) -> list[tuple[Source, Source]]:
        """Return what a group of one side gives to paired operators, with what their partners read instead."""
        pairing, scope = self.pairing, (self.pairing.a, self.pairing.b)[side]
        found = []
        for source in self.gives(region, side):
            for use in scope.feeds(source):
                partner = (pairing.to_b, pairing.to_a)[side][use.operator]
                if partner < 0 or use.slot >= scope.explicit[use.operator]:
                    continue
                pair = (use.operator, partner) if side == 0 else (partner, use.operator)
                found += [(source, slot[1 - side]) for slot in pairing.slots(*pair) if slot[side] == source]
        return found

    def _equal(self, side: int, own: Source, other: Source) -> bool:
        """Tell whether `own` is computed a second time on its side, by the partner of the other side's `other`."""
        if other.kind != Kind.NODE or own.output != other.output:
            return False
        twin = (self.pairing.to_a, self.pairing.to_b)[side][other.number]
        if self._ancestry is None:
            self._ancestry = tuple(labels.ancestry() for labels in self.pairing.labels)
        return twin >= 0 and self._ancestry[side][twin] == self._ancestry[side][own.number]

    def _feeders(self, region: Region, side: int) -> list[int]:
        """Return paired operators (first side's numbers) that feed this group and nothing else."""
        scope, members = (self.pairing.a, self.pairing.b)[side], region.sides()[side]
        found = []
        for source in self.reads(region, side):
            uses = scope.feeds(source)
            if source.kind == Kind.NODE and all(use.operator in members for use in uses) and source not in scope.exits:
                found.append(source.number)
        return self._ungrouped(found, side)

    def _only_reader(self, region: Region, side: int) -> list[int]:
        """Return the paired operator (first side's number) that alone reads what this group gives."""
        scope, members = (self.pairing.a, self.pairing.b)[side], region.sides()[side]
        given = self.gives(region, side)
        readers = {use.operator for source in given for use in scope.feeds(source)} - members
        if len(readers) != 1 or any(source in scope.exits for source in given):
            return []
        return self._ungrouped(list(readers), side)

    def _ungrouped(self, numbers: list[int], side: int) -> list[int]:
        free = [number for number in dict.fromkeys(numbers) if number not in self.of[side]]
        return free if side == 0 else [self.pairing.to_a[number] for number in free]


def new_history(pairing: Pairing, before: set[int], after: set[int]) -> tuple[str, ...]:
    """Return the steps and rules that touched the operators of one side and not those of the other."""
    first = {entry for number in before for entry in provenance.history(pairing.a.operators[number])}
    second = {entry for number in after for entry in provenance.history(pairing.b.operators[number])}
    ordered = [entry for number in sorted(after) for entry in provenance.history(pairing.b.operators[number])]
    ordered += [entry for number in sorted(before) for entry in provenance.history(pairing.a.operators[number])]
    return tuple(dict.fromkeys(entry for entry in ordered if (entry in first) != (entry in second)))
