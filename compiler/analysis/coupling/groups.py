"""Groups: indices that pass through the same axes, each index (an atom) to be cut whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling.couplings import Couplings
from mopt.analysis.coupling.elements import Ids
from mopt.ir import provenance
from mopt.rewrite.constants import stored_tensor

MAKERS: Final = frozenset({"out", "gates", "embedding"})
"""Roles of a weight that makes the values of a group; a group without any is no layer's and is not cut."""


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one weight in a group.

    Attributes:
        value: the weight.
        axis: its axis.
        roles: what it is to the nodes that read it: `out`, `in`, `gates`, `embedding`, `gamma`, `bias` …
        layers: the source layers of those nodes.
        indices: which indices of the axis belong to the group.
        atoms: for each of them, the position of its atom in the group.
    """

    value: ir.Value
    axis: int
    roles: tuple[str, ...]
    layers: tuple[str, ...]
    indices: Ids = field(repr=False)
    atoms: Ids = field(repr=False)

    @property
    def makes(self) -> bool:
        """Whether this weight makes the values of the group (and does not only read or scale them)."""
        return bool(MAKERS & set(self.roles))


@dataclass(frozen=True, eq=False)
class Group:
    """What must be cut together.

    Attributes:
        name: the first layer that makes the group's values; with a number where several groups have the same.
        reason: why it can't be cut, or None.
        atoms: for each channel of the group, the representative of its indices (see `Elements`).
        members: the weights' axes it goes through.
        axes: how many axes of tensors it goes through, activations included.
    """

    name: str
    reason: str | None
    atoms: Ids = field(repr=False)
    members: tuple[Member, ...]
    axes: int

    @property
    def channels(self) -> int:
        """How many can be cut one by one: channels, hidden units, heads."""
        return len(self.atoms)

    @property
    def unit(self) -> int:
        """How many indices of a layer's output one of them takes: the width of a head; 1 for a plain channel.

        The gates of a recurrent layer do not count: its output is one index wide for each hidden unit.
        """
        made = [
            len(member.indices) // self.channels for member in self.members if {"out", "embedding"} & set(member.roles)
        ]
        return min(made, default=1)

    @property
    def layers(self) -> tuple[str, ...]:
        """The source layers that make the group's values."""
        return tuple(dict.fromkeys(name for member in self.members if member.makes for name in member.layers))

    def to_json(self) -> dict[str, Any]:
        """Return the group as JSON data."""
        return {
            "name": self.name,
            "channels": self.channels,
            "unit": self.unit,
            "reason": self.reason,
            "axes": self.axes,
            "layers": list(self.layers),
            "weights": [
                {"name": member.value.name, "axis": member.axis, "indices": len(member.indices),
                 "roles": list(member.roles), "layers": list(member.layers)}
                for member in self.members
            ],
        }  # fmt: skip

    def __str__(self) -> str:
        what = f"{self.channels} × {self.unit}" if self.unit > 1 else f"{self.channels}"
        makers = sum(member.makes for member in self.members)
        head = f"{self.name}: {what} channels, {makers} of {len(self.members)} weights make them"
        return f"{head}; {self.reason or 'can be cut'}"


def collect(c: Couplings) -> list[Group]:
    """Return the groups that layers make, those that can't be cut included, in the order of the graph."""
    count = len(c.elements)
    roots = c.elements.find(np.arange(count, dtype=np.int64))
    random = np.random.default_rng(0)
    marks = np.zeros(count, np.uint64)
    for (_, _), start, size in _blocks(c):
        marks[start : start + size] = random.integers(1, 1 << 62, dtype=np.uint64)
    # Two atoms are of one group if they have equally many indices on the same axes: sums of random marks tell.
    signature = np.zeros(count, np.uint64)
    np.add.at(signature, roots, marks)
    weights = _weights(c)
    made = np.zeros(count, bool)
    for value, axis in weights:
        if MAKERS & {role for role, _ in c.roles[value, axis]}:
            made[roots[c.ids(value, axis)]] = True
    atoms = np.flatnonzero(made)
    keys = [(int(signature[atom]), c.elements.reason(int(atom))) for atom in atoms]
    number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    group_of = np.full(count, -1, np.int64)
    place_of = np.zeros(count, np.int64)
    sizes = [0] * len(number)
    for atom, key in zip(atoms, keys, strict=True):
        group_of[atom], place_of[atom] = number[key], sizes[number[key]]
        sizes[number[key]] += 1
    members = _members(c, weights, roots, group_of, place_of, len(number))
    axes = _count_axes(c, roots, group_of, len(number))
    return _named(
        [
            Group(_name(members[index]), reason, atoms[group_of[atoms] == index], tuple(members[index]), axes[index])
            for (_, reason), index in number.items()
        ]
    )


def _blocks(c: Couplings) -> list[tuple[tuple[ir.Value, int], int, int]]:
    return [(end, start, c.size(*end) or 0) for end, start in c.start.items()]


def _weights(c: Couplings) -> list[tuple[ir.Value, int]]:
    return [
        end for end in c.start if end in c.roles and end[0] in c.sizes and stored_tensor(end[0]) is not None
    ]  # fmt: skip


def _members(
    c: Couplings, weights: Sequence[tuple[ir.Value, int]], roots: Ids, group_of: Ids, place_of: Ids, count: int
) -> list[list[Member]]:
    members: list[list[Member]] = [[] for _ in range(count)]
    for value, axis in weights:
        own = roots[c.ids(value, axis)]
        groups = group_of[own]
        roles = tuple(dict.fromkeys(role for role, _ in c.roles[value, axis]))
        nodes = dict.fromkeys(node for _, node in c.roles[value, axis])
        layers = tuple(dict.fromkeys(name for node in nodes for name in provenance.origins(node) or (node.name or "",)))
        for group in np.unique(groups[groups >= 0]):
            at = np.flatnonzero(groups == group).astype(np.int64)
            members[group].append(Member(value, axis, roles, layers, at, place_of[own[at]]))
    return members


def _count_axes(c: Couplings, roots: Ids, group_of: Ids, count: int) -> list[int]:
    axes = [0] * count
    for _, start, size in _blocks(c):
        groups = group_of[roots[start : start + size]]
        for group in np.unique(groups[groups >= 0]):
            axes[group] += 1
    return axes


def _name(members: Sequence[Member]) -> str:
    makers = [member for member in members if member.makes]
    return makers[0].layers[0] if makers[0].layers else makers[0].value.name or "group"


def _named(groups: list[Group]) -> list[Group]:
    """Give groups of one name numbers, and put them in the order of their first index."""
    seen: dict[str, int] = {}
    named = []
    for group in groups:
        seen[group.name] = seen.get(group.name, 0) + 1
        name = group.name if seen[group.name] == 1 else f"{group.name}#{seen[group.name]}"
        named.append(Group(name, group.reason, group.atoms, group.members, group.axes))
    return named
