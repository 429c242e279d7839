"""Pairs inside a group: what anchors and neighbours did not reach, since all around it was rewritten, too.

Inside one group, between the same values, an operator that alone is of its kind on both sides is the same one;
what is left is aligned in topological order (longest common subsequence).
"""

from __future__ import annotations

from collections.abc import Iterator

from mopt.diff.groups import Regions
from mopt.diff.labels import Detail
from mopt.diff.pairing import Pairing

_MAX_CELLS = 250_000
"""Table cells of one alignment; larger groups are left as they are."""


def inside_groups(pairing: Pairing, *, in_order: bool) -> Iterator[tuple[int, int, Detail]]:
    """Propose pairs, with the detail in which they are alike; earlier ones may have taken what a later one names."""
    for region in Regions(pairing, set()).all:
        before, after = sorted(region.before), sorted(region.after)
        if not before or not after:
            continue
        for detail in (Detail.SHAPES, Detail.CORE, Detail.OPERATOR):
            first, second = (side.first(detail) for side in pairing.labels)
            keys_a, keys_b = [first[x] for x in before], [second[y] for y in after]
            found = _in_order if in_order else _alone
            yield from ((x, y, detail) for x, y in found(before, after, keys_a, keys_b))


def _alone(before: list[int], after: list[int], first: list[int], second: list[int]) -> Iterator[tuple[int, int]]:
    for x, key in zip(before, first, strict=True):
        if first.count(key) == second.count(key) == 1:
            yield x, after[second.index(key)]


def _in_order(before: list[int], after: list[int], first: list[int], second: list[int]) -> Iterator[tuple[int, int]]:
    if len(first) * len(second) > _MAX_CELLS:
        return
    longest = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i in reversed(range(len(first))):
        for j in reversed(range(len(second))):
            same = longest[i + 1][j + 1] + 1 if first[i] == second[j] else 0
            longest[i][j] = max(same, longest[i + 1][j], longest[i][j + 1])
    i = j = 0
    while i < len(first) and j < len(second):
        if first[i] == second[j] and longest[i][j] == longest[i + 1][j + 1] + 1:
            yield before[i], after[j]
            i, j = i + 1, j + 1
        elif longest[i + 1][j] >= longest[i][j + 1]:
            i += 1
        else:
            j += 1
