"""`Couplings`: the axes of all tensors of a graph, joined where an operator ties them together.

The unit is the index of an axis (channel 5 of a feature map), for operators tie indices, not whole axes: a
concatenation puts the channels of one input after those of another, a depthwise convolution ties channel to channel, a
recurrent layer one hidden unit to a row of each of its gates. Axes are the nodes of a networkx graph, its edges the
operators that tie two of them; the indices are kept in a union-find beside it.

An axis into which a dynamic batch and a static axis are merged (batch × heads, as exporters write attention's products)
stands for its static part: as many indices as it has for a batch of one, which repeat for every other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import networkx
import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling.elements import Elements, Ids

Sizes: TypeAlias = Mapping[ir.Value, tuple[int | None, ...]]


class Axis(NamedTuple):
    """One axis of one tensor: a node of the graph of couplings."""

    value: str
    axis: int


class Couplings:
    """What operators say of the axes of a graph's tensors.

    Attributes:
        sizes: the shape of every value whose rank is known; a dynamic dimension is None and is never cut.
        graph: `Axis` nodes (attribute `size`), an edge for each tie with the operator's name as attribute `node`.
        elements: the sets of indices.
        roles: what a weight's axis is to the node that reads it: `out` and `in` of a kernel, `gates`, `embedding`,
            a normalisation's `gamma`, `bias`, `mean` and `variance`, the `scale` of a Mul, the `slope` of a PRelu —
            with that node.
        opset: the version of the default operator set.
        merged: axes that a dynamic batch is part of; their size here is that for a batch of one.
    """

    def __init__(self, sizes: Sizes, opset: int, merged: Collection[tuple[ir.Value, int]] = ()) -> None:
        self.sizes = sizes
        self.opset = opset
        self.merged = frozenset(merged)
        self.graph: networkx.MultiGraph = networkx.MultiGraph()
        self.roles: dict[tuple[ir.Value, int], list[tuple[str, ir.Node]]] = {}
        self.start: dict[tuple[ir.Value, int], int] = {}
        total = 0
        for value, shape in sizes.items():
            for axis, size in enumerate(shape):
                if size is not None:
                    self.start[value, axis] = total
                    total += size
                    self.graph.add_node(Axis(value.name or "", axis), size=size)
        self.elements = Elements(total)
        self._later: list[Callable[[], None]] = []

    def rank(self, value: ir.Value) -> int:
        """Return the number of axes."""
        return len(self.sizes[value])

    def size(self, value: ir.Value, axis: int) -> int | None:
        """Return the size of an axis, or None where it is dynamic."""
        return self.sizes[value][axis]

    def ids(self, value: ir.Value, axis: int) -> Ids:
        """Return the ids of the indices of an axis; none where it is dynamic."""
        size = self.sizes[value][axis]
        start = self.start.get((value, axis), 0)
        return np.arange(start, start + (size or 0), dtype=np.int64)

    def couple(
        self,
        node: ir.Node,
        left: tuple[ir.Value, int],
        right: tuple[ir.Value, int],
        at: Ids | None = None,
        to: Ids | None = None,
    ) -> None:
        """Tie index `at[k]` of one axis to index `to[k]` of the other, for every k; all of them by default.

        Without `at` and `to`, axes of different or unknown sizes can't be tied: what is static of them is fixed.
        """
        one, other = self.ids(*left), self.ids(*right)
        if at is None and to is None and len(one) != len(other):
            for end in (left, right):
                self.fix(*end, f"its size is not known through {node.op_type} `{node.name}`")
            return
        if (at is not None or to is not None) and node.op_type != "Reshape" and {left, right} & self.merged:
            for end in (left, right):
                self.fix(*end, f"{node.op_type} `{node.name}` takes parts of an axis that the batch is merged into")
            return
        one, other = one if at is None else one[at], other if to is None else other[to]
        if len(one) == 0:
            return
        self.graph.add_edge(
            Axis(left[0].name or "", left[1]), Axis(right[0].name or "", right[1]), node=node.name or ""
        )
        self.elements.union(one, other)

    def couple_aligned(self, node: ir.Node, inner: ir.Value, outer: ir.Value) -> None:
        """Tie an operand of an element-wise operator to its result: axes from the right, those of size 1 broadcast."""
        shift = self.rank(outer) - self.rank(inner)
        for axis in range(max(0, -shift), self.rank(inner)):
            if self.size(inner, axis) != 1 or self.size(outer, axis + shift) == 1:
                self.couple(node, (inner, axis), (outer, axis + shift))

    def fix(self, value: ir.Value, axis: int, reason: str, at: Ids | None = None) -> None:
        """Say that an axis, or some of its indices, can't be cut."""
        ids = self.ids(value, axis)
        self.elements.fix(ids if at is None else ids[at], reason)

    def fix_all(self, values: Sequence[ir.Value | None], reason: str) -> None:
        """Say that no axis of these values can be cut."""
        for value in values:
            if value is not None and value in self.sizes:
                for axis in range(self.rank(value)):
                    self.fix(value, axis, reason)

    def is_fixed(self, value: ir.Value, axis: int) -> bool:
        """Say whether no index of an axis can be cut."""
        return bool(self.elements.is_fixed(self.ids(value, axis)).all())

    def role(self, value: ir.Value, axis: int, role: str, node: ir.Node) -> None:
        """Say what an axis of an operand is to a node."""
        self.roles.setdefault((value, axis), []).append((role, node))

    def later(self, decide: Callable[[], None]) -> None:
        """Put a decision off until all other operators have been heard (which factor of a product is cut)."""
        self._later.append(decide)

    def settle(self) -> None:
        """Take the decisions put off, in the order of the graph."""
        for decide in self._later:
            decide()
        self._later.clear()
