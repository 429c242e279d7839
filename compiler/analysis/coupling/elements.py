"""Union-find over the indices of all axes, vectorised: which indices must be cut together, and which can't be."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int64]


class Elements:
    """Disjoint sets over the ids 0 … n-1; a set may carry the reason why it can't be cut."""

    def __init__(self, count: int) -> None:
        self._parent: Ids = np.arange(count, dtype=np.int64)
        self._reason = np.zeros(count, np.int32)
        self._reasons: list[str] = [""]
        self._known: dict[str, int] = {"": 0}

    def find(self, ids: Ids) -> Ids:
        """Return the representative of each id's set: its smallest id."""
        roots = self._parent[ids]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[ids] = roots
        return roots

    def union(self, left: Ids, right: Ids) -> None:
        """Merge the sets of `left[k]` and `right[k]` for every k; a merged set keeps the reason of one of them."""
        while True:
            one, other = self.find(left), self.find(right)
            apart = one != other
            if not apart.any():
                return
            low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
            # Links point to smaller ids only, so no cycle can come up; of several links of one root the last
            # is written, and the next round makes up for the others.
            self._parent[high] = low
            # A root may have got a link itself in this round, so that reasons go to the root above it.
            high = high[self._reason[high] > 0]
            roots = self.find(high)
            fresh = self._reason[roots] == 0
            self._reason[roots[fresh]] = self._reason[high[fresh]]

    def fix(self, ids: Ids, reason: str) -> None:
        """Say why these ids can't be cut; an earlier reason of a set stays."""
        number = self._known.setdefault(reason, len(self._reasons))
        if number == len(self._reasons):
            self._reasons.append(reason)
        roots = self.find(ids)
        self._reason[roots[self._reason[roots] == 0]] = number

    def is_fixed(self, ids: Ids) -> NDArray[np.bool_]:
        """Say for each id whether it can't be cut."""
        fixed: NDArray[np.bool_] = self._reason[self.find(ids)] > 0
        return fixed

    def reason(self, element: int) -> str | None:
        """Return why an id can't be cut, or None."""
        at = np.array([element], np.int64)
        return self._reasons[self._reason[self.find(at)[0]]] or None

    def __len__(self) -> int:
        return len(self._parent)
