"""Which channels go, given how important each is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mopt.analysis.coupling import Group
from numpy.typing import NDArray

Atoms = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranked:
    """A group that may be cut, the importance of each of its channels, and how many went in earlier steps."""

    group: Group
    scores: NDArray[np.float64]
    gone: int = 0

    @property
    def whole(self) -> int:
        """How many channels it had before the first step."""
        return self.group.channels + self.gone

    def cut(self, count: int, round_to: int) -> Atoms:
        """Return the atoms of at least `count` channels, least important first, so that a multiple stays.

        At least one channel stays, and at least `round_to` indices where the group has as many.
        """
        total = self.group.channels
        step = round_to // math.gcd(round_to, self.group.unit)
        keep = total - count
        keep = keep // step * step
        if keep == 0:
            keep = min(step, total)
        order = np.argsort(self.scores, kind="stable")
        return self.group.atoms[np.sort(order[: total - keep])]


def select(ranked: Sequence[Ranked], share: float, scope: str, round_to: int) -> list[Atoms]:
    """Return the atoms to cut of every group, for a share of its channels or of all channels together.

    Shares are those of the model before the first step; what went in earlier steps counts.
    """
    none = np.zeros(0, np.int64)
    if scope == "local":
        local = [_count(share, one.whole) - one.gone for one in ranked]
        return [one.cut(count, round_to) if count > 0 else none for one, count in zip(ranked, local, strict=True)]
    wanted = max(0, _count(share, sum(one.whole for one in ranked)) - sum(one.gone for one in ranked))
    every = np.concatenate([one.scores for one in ranked])
    owner = np.concatenate([np.full(one.group.channels, index) for index, one in enumerate(ranked)])
    counts = [0] * len(ranked)
    for position in np.argsort(every, kind="stable"):
        if wanted == 0:
            break
        index = int(owner[position])
        if counts[index] < ranked[index].group.channels - 1:
            counts[index] += 1
            wanted -= 1
    return [one.cut(count, round_to) if count else none for one, count in zip(ranked, counts, strict=True)]


def _count(share: float, total: int) -> int:
    """Return how many of `total` make at least `share` (a rounding error of the product is no channel)."""
    return max(0, min(total, math.ceil(share * total - 1e-9 * total)))
