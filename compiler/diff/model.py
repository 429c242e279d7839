"""What a diff says: one frozen tree of plain values, from which every rendering is made.

Nothing here refers to a graph, so that a diff can be stored, sent and rendered long after the models are gone.
"before" and "after" are the two sides; `Diff.mirrored` swaps them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

Shape = tuple[int | str | None, ...]
"""Dimensions: an int is fixed, a name is dynamic, None is unknown."""

How = Literal["provenance", "structure"]


@dataclass(frozen=True)
class Operator:
    """One node of one side.

    Attributes:
        scope: the body it stands in (`If_3/then_branch`), empty for the main graph.
        name: the node's name, or its first output's where it has none.
        op: operator type, with its domain in front where that is not ONNX's own.
        outputs: names of the values it produces.
        origins: the source model's nodes it comes from, where provenance knows.
        nested: operators inside its bodies.
    """

    scope: str
    name: str
    op: str
    outputs: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    nested: int = 0

    def __str__(self) -> str:
        return f"{self.op} {self.scope + '/' if self.scope else ''}{self.name}"


@dataclass(frozen=True)
class AttributeChange:
    """An attribute whose effective value differs; None where one side's operator has no such attribute."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Rewiring:
    """An input that reads something else, which no group explains.

    `slot` is the input's position, `parameter` its name in the operator's schema where known.
    """

    slot: int
    parameter: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class NodeChange:
    """A node that both sides have, with other attributes or other inputs. `by` are the steps and rules."""

    before: Operator
    after: Operator
    attributes: tuple[AttributeChange, ...] = ()
    rewired: tuple[Rewiring, ...] = ()
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """Neighbouring nodes of one side that stand where those of the other stood.

    Attributes:
        before: nodes in topological order; empty where the group was added.
        after: likewise; empty where the group was removed.
        kept: pairs of positions in `before` and `after` that are one node which took over its neighbour's work
            (the Conv of Conv + BatchNormalization → Conv).
        inputs: names, on the side that has more nodes, of the values the group reads.
        outputs: likewise of the values it gives to the rest.
        constant: what it computed is now a weight (or was one before).
        duplicate: what it computed is computed elsewhere, too, and taken from there (or was before).
        by: the steps and rules that did it, as far as provenance knows.
    """

    before: tuple[Operator, ...]
    after: tuple[Operator, ...]
    kept: tuple[tuple[int, int], ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    constant: bool = False
    duplicate: bool = False
    by: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["added", "removed", "replaced"]:
        """What happened, seen from the first side."""
        if not self.after:
            return "removed"
        return "replaced" if self.before else "added"

    @property
    def pattern(self) -> str:
        """The operators on both sides, for folding groups that are alike: `Conv + BatchNormalization → Conv`."""
        return f"{_sequence(self.before)} → {_sequence(self.after)}" if self.kind == "replaced" else self._one_sided()

    def _one_sided(self) -> str:
        text = _sequence(self.before or self.after)
        if self.duplicate:
            return f"{text} (duplicate)"
        if not self.constant:
            return text
        return f"{text} → constant" if self.before else f"constant → {text}"


def _sequence(operators: tuple[Operator, ...]) -> str:
    """Join operator types; runs and long regions are told by their counts."""
    names = [operator.op for operator in operators]
    if len(names) <= 6:
        runs: list[tuple[str, int]] = []
        for name in names:
            if runs and runs[-1][0] == name:
                runs[-1] = (name, runs[-1][1] + 1)
            else:
                runs.append((name, 1))
        return " + ".join(name if count == 1 else f"{count} {name}" for name, count in runs)
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} {name}" for name, count in common[:4])
    rest = sum(count for _, count in common[4:])
    return f"{len(names)} nodes ({shown}{f', {rest} more' if rest else ''})"


@dataclass(frozen=True)
class TensorFacts:
    """Name, element type (the language's words) and shape of a value; None where the model does not say."""

    name: str
    dtype: str | None
    shape: Shape | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype or '?'}[…]"
        return f"{self.dtype or '?'}[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"


@dataclass(frozen=True)
class ValueChange:
    """A value that both sides compute, whose element type or shape differs."""

    before: TensorFacts
    after: TensorFacts
    producer: Operator
    by: tuple[str, ...] = ()


@dataclass(frozen=True)
class WeightFacts:
    """One weight of one side.

    Attributes:
        name: of the value that holds it.
        dtype: element type; `shape`: dimensions; `elements`: their product; `bytes`: as stored.
        stored: as an initializer, or in a Constant node.
        zeros: elements that are zero; None where not measured (as are the following).
        distinct: different values in it; None also where there are more than 65,536.
        rms: root mean square of the elements; `peak`: largest magnitude. None also for what has neither.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    bytes: int
    stored: Literal["initializer", "constant"]
    zeros: int | None = None
    distinct: int | None = None
    rms: float | None = None
    peak: float | None = None

    @property
    def sparsity(self) -> float | None:
        """Share of zeros."""
        return None if self.zeros is None else self.zeros / max(1, self.elements)

    @property
    def bits(self) -> int | None:
        """Bits that tell its distinct values apart."""
        return None if self.distinct is None else max(1, math.ceil(math.log2(max(1, self.distinct))))


@dataclass(frozen=True)
class WeightError:
    """How far the elements of the second side are from those of the first.

    `max_abs` is the largest difference, `rms` the root mean square of the differences; both in the weights' unit.
    """

    max_abs: float
    rms: float


@dataclass(frozen=True)
class WeightChange:
    """A weight that both sides have at the same place, with other values, element type or shape.

    `users` are the nodes of the second side that read it; `error` is None where the shapes differ or the elements
    are no numbers; `decoded` says that a side was computed from a stored form (DequantizeLinear, Cast, Gather …).
    """

    before: WeightFacts
    after: WeightFacts
    users: tuple[Operator, ...] = ()
    error: WeightError | None = None
    decoded: bool = False
    by: tuple[str, ...] = ()

    @property
    def max_rel(self) -> float | None:
        """Largest difference, relative to the first side's largest magnitude."""
        if self.error is None or not self.before.peak:
            return None
        return self.error.max_abs / self.before.peak

    @property
    def snr_db(self) -> float | None:
        """Signal-to-noise ratio in decibels; None where nothing differs or nothing was there."""
        if self.error is None or not self.before.rms or not self.error.rms:
            return None
        return 20 * math.log10(self.before.rms / self.error.rms)


@dataclass(frozen=True)
class InterfaceChange:
    """An input or output of the model that differs; `before` is None where it is new, `after` where it is gone.

    `position_before` and `position_after` count from 0.
    """

    kind: Literal["input", "output"]
    before: TensorFacts | None
    after: TensorFacts | None
    position_before: int | None = None
    position_after: int | None = None

    @property
    def what(self) -> tuple[str, ...]:
        """In which ways: added, removed, renamed, dtype, shape, moved."""
        if self.before is None:
            return ("added",)
        if self.after is None:
            return ("removed",)
        differs = (
            ("renamed", self.before.name != self.after.name),
            ("dtype", self.before.dtype != self.after.dtype),
            ("shape", self.before.shape != self.after.shape),
            ("moved", self.position_before != self.position_after),
        )
        return tuple(name for name, yes in differs if yes)


@dataclass(frozen=True)
class PropertyChange:
    """Something said of the model as a whole: an opset, the IR version, an entry of its metadata."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class Rename:
    """A node or value that only changed its name; never counted as a change."""

    kind: Literal["node", "value"]
    before: str
    after: str


@dataclass(frozen=True)
class StepEffect:
    """How many of the changes one step and rule (`simplify.rules/fuse_batchnorm`) is responsible for."""

    by: str
    changes: int


@dataclass(frozen=True)
class Side:
    """Totals of one side.

    `nodes` counts operators with those of bodies and functions, without Constant nodes, which `constants` counts
    and which are weights. `macs` and `bytes` are of one run and of the weights; dynamic dimensions are bound as
    `mopt.analysis.cost` says.
    """

    label: str
    nodes: int
    constants: int
    weights: int
    parameters: int
    nonzero: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class Diff:
    """The difference between two modules.

    Attributes:
        before, after: totals of the two sides.
        matched: pairs of nodes found to be the same; `by_provenance` of them by provenance, the rest by structure.
        groups: nodes added, removed and replaced.
        changed: nodes with other attributes or inputs.
        values: values of other shape or element type.
        weights: weights with other contents; `weights_added`, `weights_removed`: those without a counterpart.
        weights_compared: False where the contents of weights were left out of account.
        moved: weights that are the same but went from a Constant node to an initializer, or back: how many each.
        interface, properties: changes of the model's inputs and outputs, and of the model as a whole.
        renames: nodes and values that only changed their names.
        steps: the steps and rules responsible, most changes first.
    """

    before: Side
    after: Side
    matched: int
    by_provenance: int
    groups: tuple[Group, ...] = ()
    changed: tuple[NodeChange, ...] = ()
    values: tuple[ValueChange, ...] = ()
    weights: tuple[WeightChange, ...] = ()
    weights_added: tuple[WeightFacts, ...] = ()
    weights_removed: tuple[WeightFacts, ...] = ()
    weights_compared: bool = True
    moved: tuple[int, int] = (0, 0)
    interface: tuple[InterfaceChange, ...] = ()
    properties: tuple[PropertyChange, ...] = ()
    renames: tuple[Rename, ...] = ()
    steps: tuple[StepEffect, ...] = ()

    @property
    def changes(self) -> int:
        """How many things differ, renames left out."""
        listed = (self.groups, self.changed, self.values, self.weights, self.weights_added, self.weights_removed)
        return sum(map(len, (*listed, self.interface, self.properties))) + sum(self.moved)

    @property
    def is_empty(self) -> bool:
        """True where nothing differs, not even a name."""
        return not self.changes and not self.renames

    @property
    def only_renames(self) -> bool:
        """True where names differ and nothing else."""
        return not self.changes and bool(self.renames)

    @property
    def added(self) -> tuple[Group, ...]:
        """Groups the first side has not."""
        return tuple(group for group in self.groups if group.kind == "added")

    @property
    def removed(self) -> tuple[Group, ...]:
        """Groups the second side has not."""
        return tuple(group for group in self.groups if group.kind == "removed")

    @property
    def replaced(self) -> tuple[Group, ...]:
        """Groups that other nodes took the place of."""
        return tuple(group for group in self.groups if group.kind == "replaced")

    def mirrored(self) -> Diff:
        """Return the diff from the second side to the first.

        What provenance says of steps is kept: it is the same step that lies between the two.
        """
        return replace(
            self,
            before=self.after,
            after=self.before,
            groups=tuple(
                replace(g, before=g.after, after=g.before, kept=tuple((j, i) for i, j in g.kept)) for g in self.groups
            ),
            changed=tuple(
                replace(
                    change,
                    before=change.after,
                    after=change.before,
                    attributes=_swapped(change.attributes),
                    rewired=_swapped(change.rewired),
                )
                for change in self.changed
            ),
            values=_swapped(self.values),
            weights=_swapped(self.weights),
            weights_added=self.weights_removed,
            weights_removed=self.weights_added,
            moved=(self.moved[1], self.moved[0]),
            interface=tuple(
                replace(
                    change,
                    before=change.after,
                    after=change.before,
                    position_before=change.position_after,
                    position_after=change.position_before,
                )
                for change in self.interface
            ),
            properties=_swapped(self.properties),
            renames=_swapped(self.renames),
        )

    def summary(self) -> str:
        """Return one line: `−12 +3 nodes, 4 replaced, 2 weights, MACs −31%`."""
        from mopt.diff.summary import summary

        return summary(self)

    def to_json(self) -> dict[str, Any]:
        """Return the diff as JSON-ready values, in the schema of `mopt.diff.encode.json_schema`."""
        from mopt.diff.encode import encode_diff

        return encode_diff(self)

    @staticmethod
    def from_json(document: Any) -> Diff:
        """Read back what `to_json` gave.

        Raises:
            ValueError: it is no diff, or of another version.
        """
        from mopt.diff.encode import decode_diff

        return decode_diff(document)


def _swapped(changes: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(replace(change, before=change.after, after=change.before) for change in changes)
