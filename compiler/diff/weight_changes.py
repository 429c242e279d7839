"""Which weight is which on the other side, and what became of it.

Weights follow the operators that read them: slot by slot for paired operators; what is left over is paired by equal
contents, then, inside one group, by equal shape. Names are never asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

import onnx_ir as ir
from mopt.diff.decode import constant_cone, decoded
from mopt.diff.groups import new_history
from mopt.diff.listing import operator
from mopt.diff.model import Operator, Rename, WeightChange, WeightFacts
from mopt.diff.prints import Prints
from mopt.diff.scope import Held, Kind, Scope, Source
from mopt.diff.scopes import ScopeMatcher, ScopePair
from mopt.diff.weights import error, facts, is_number, measure


def _own(scopes: list[Scope]) -> list[Held]:
    return [held for scope in scopes for held in scope.weights if held.own]


@dataclass
class _Pair:
    a: Held
    b: Held
    users: dict[Operator, None] = field(default_factory=dict)
    by: dict[str, None] = field(default_factory=dict)
    by_contents: bool = False


class WeightComparison:
    """Compares the weights of two matched modules; the results are its public attributes."""

    def __init__(self, matched: ScopeMatcher, prints: Prints, by: tuple[str, ...], *, contents: bool) -> None:
        self._prints, self._contents, self._by = prints, contents, by
        self._pairs: dict[tuple[ir.Value, ir.Value], _Pair] = {}
        self._seen: tuple[set[ir.Value], set[ir.Value]] = (set(), set())
        self.changed: list[WeightChange] = []
        self.renames: list[Rename] = []
        self.moved = [0, 0]
        for pair in matched.pairs:
            self._by_slots(pair)
            self._by_exits(pair)
        for pair in matched.pairs:
            self._decoded(pair)
        own = (_own(matched.everything[0]), _own(matched.everything[1]))
        self._by_contents(own)
        for pair in matched.pairs:
            self._by_shape(pair)
        for found in self._pairs.values():
            self._judge(found)
        self.removed = [facts(held, measured=False) for held in own[0] if held.value not in self._seen[0]]
        self.added = [facts(held, measured=False) for held in own[1] if held.value not in self._seen[1]]

    def _note(self, a: Held, b: Held) -> _Pair:
        self._seen[0].add(a.value)
        self._seen[1].add(b.value)
        return self._pairs.setdefault((a.value, b.value), _Pair(a, b))

    def _by_slots(self, pair: ScopePair) -> None:
        for x, y in enumerate(pair.pairing.to_b):
            if y < 0:
                continue
            for sa, sb in pair.pairing.slots(x, y):
                if sa.kind == sb.kind == Kind.WEIGHT:
                    found = self._note(pair.a.weights[sa.number], pair.b.weights[sb.number])
                    if not self._prints.same(found.a.tensor, found.b.tensor):
                        found.users[operator(pair.b, y)] = None
                        found.by |= dict.fromkeys(new_history(pair.pairing, {x}, {y}))

    def _by_exits(self, pair: ScopePair) -> None:
        for x, y in pair.outputs.items():
            sa, sb = pair.a.outputs[x], pair.b.outputs[y]
            if sa.kind == sb.kind == Kind.WEIGHT:
                self._note(pair.a.weights[sa.number], pair.b.weights[sb.number])

    def _decoded(self, pair: ScopePair) -> None:
        """Find weights that one side stores in another form, with operators that bring them back."""
        if not self._contents:
            return
        for x, y in enumerate(pair.pairing.to_b):
            if y < 0:
                continue
            for sa, sb in pair.pairing.slots(x, y):
                if {sa.kind, sb.kind} != {Kind.WEIGHT, Kind.NODE}:
                    continue
                plain, coded = (sa, sb) if sa.kind == Kind.WEIGHT else (sb, sa)
                scopes = (pair.a, pair.b) if sa.kind == Kind.WEIGHT else (pair.b, pair.a)
                self._decode(pair, (x, y), scopes, plain, coded, mirrored=sa.kind != Kind.WEIGHT)

    def _decode(
        self,
        pair: ScopePair,
        users: tuple[int, int],
        scopes: tuple[Scope, Scope],
        plain: Source,
        coded: Source,
        *,
        mirrored: bool,
    ) -> None:
        held = scopes[0].weights[plain.number]
        cone = constant_cone(scopes[1], coded)
        if cone is None or held.value in self._seen[mirrored] or not is_number(held.tensor.dtype):
            return
        array = decoded(scopes[1], coded, cone)
        if array is None or array.shape != held.shape:
            return
        parts = [scopes[1].weights[index] for index in cone[1]]
        main = max(parts, key=lambda part: part.tensor.nbytes)
        stored = facts(main, measured=False)
        other = measure(replace(stored, bytes=sum(facts(part, measured=False).bytes for part in parts)), array)
        self._seen[mirrored].add(held.value)
        self._seen[not mirrored].update(part.value for part in parts)
        first, second = facts(held, measured=True), other
        difference = error(held.tensor.numpy(), array)
        if held.tensor.dtype.is_integer() and difference is not None and not difference.max_abs:
            return  # a folded shape or axis: the group says so
        history = new_history(pair.pairing, {users[0]}, {users[1]}) or self._by
        user = operator(pair.b, users[1])
        sides: tuple[WeightFacts, WeightFacts] = (second, first) if mirrored else (first, second)
        self.changed.append(WeightChange(*sides, (user,), difference, decoded=True, by=history))

    def _by_contents(self, own: tuple[list[Held], list[Held]]) -> None:
        """Pair what no paired operator reads by equal contents (or equal shape, where contents are left out)."""
        left: tuple[dict[Hashable, list[Held]], dict[Hashable, list[Held]]] = (defaultdict(list), defaultdict(list))
        for side, everything in enumerate(own):
            for held in everything:
                if held.value not in self._seen[side]:
                    tensor = held.tensor
                    key: Hashable = self._prints.of(tensor) if self._contents else (tensor.dtype.name, held.shape)
                    left[side][key].append(held)
        for key, first in left[0].items():
            for a, b in zip(first, left[1].get(key, ()), strict=False):
                self._note(a, b).by_contents = True

    def _by_shape(self, pair: ScopePair) -> None:
        """Pair weights of one group that alone have their shape (an f32 weight and the i8 one in its place)."""
        for region in pair.regions.all:
            left: tuple[dict[tuple[int, ...], list[Held]], ...] = (defaultdict(list), defaultdict(list))
            for side, members in enumerate(region.sides()):
                scope = (pair.a, pair.b)[side]
                sources = {source: None for number in sorted(members) for source in scope.sources[number]}
                for source in sources:
                    if source.kind == Kind.WEIGHT:
                        held = scope.weights[source.number]
                        if held.value not in self._seen[side] and len(held.shape) > 1:
                            left[side][held.shape].append(held)
            for shape, first in left[0].items():
                second = left[1].get(shape, [])
                if len(first) == len(second) == 1:
                    found = self._note(first[0], second[0])
                    found.by |= dict.fromkeys(new_history(pair.pairing, region.before, region.after))
                    found.users |= {operator(pair.b, number): None for number in sorted(region.after)}

    def _judge(self, pair: _Pair) -> None:
        a, b = pair.a.tensor, pair.b.tensor
        if a is b or (
            self._prints.same(a, b) if self._contents else (a.dtype, pair.a.shape) == (b.dtype, pair.b.shape)
        ):
            if pair.a.stored != pair.b.stored:
                self.moved[pair.b.stored == "constant"] += 1
            # Equal contents alone (two vectors of zeros, say) make no weight the other one under a new name.
            if pair.a.value.name != pair.b.value.name and not pair.by_contents:
                self.renames.append(Rename("value", pair.a.value.name or "", pair.b.value.name or ""))
            return
        before, after = (facts(held, measured=self._contents) for held in (pair.a, pair.b))
        difference = None
        comparable = a.dtype.is_floating_point() == b.dtype.is_floating_point()
        if self._contents and comparable and is_number(a.dtype) and is_number(b.dtype):
            difference = error(a.numpy(), b.numpy())
        history = tuple(pair.by) or self._by
        self.changed.append(WeightChange(before, after, tuple(pair.users), difference, by=history))
