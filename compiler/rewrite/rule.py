"""What a rule's match and rewrite exchange with the driver: bindings, misses and replacements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.rewrite.view import View

Bindings: TypeAlias = Mapping[str, Any]
"""What a match found, by the names the rule's rewrite knows it under: nodes, values, arrays, numbers."""


@dataclass(frozen=True)
class Miss:
    """Why a rule does not apply at a node. `depth` counts the conditions that held: the deepest miss is nearest."""

    reason: str
    depth: int = 0


@dataclass(frozen=True)
class Replacement:
    """What takes the place of matched nodes.

    Attributes:
        removed: the nodes whose work is done by the new ones. They leave the graph once nothing reads them.
        added: the new nodes in an order that defines values before their use; inserted before `at`.
        values: each old value that others read → the value they read from now on.
        at: where `added` goes; default: the matched node.
        constants: new initializers, to be registered in the graph of `at`.
    """

    removed: Sequence[ir.Node]
    values: Mapping[ir.Value, ir.Value]
    added: Sequence[ir.Node] = ()
    constants: Sequence[ir.Value] = ()
    at: ir.Node | None = None


class Rule:
    """One rewrite, stateless: `match` finds it at a node and says what it found, `rewrite` gets just that.

    Class attributes:
        name: unique among the rules, in the words of the field: `fold-batchnorm`.
        anchors: operators of the default domain at which `match` is tried; empty: every node.
        after: operators of which one must stand directly before the anchor in the dataflow view; empty: any may.
        opset: the lowest version of the default operator set under which its result is valid.
        algebra: the identity it applies, one line.
    """

    name: ClassVar[str]
    anchors: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()
    opset: ClassVar[int] = 1
    algebra: ClassVar[str] = ""

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        """Return what was found at `node`, or why the rule does not apply there. Changes nothing."""
        raise TypeError(f"{type(self).__name__} does not implement match")

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        """Return the replacement for what `match` found. Adds nothing to the graph itself."""
        raise TypeError(f"{type(self).__name__} does not implement rewrite")


@dataclass(frozen=True)
class Applied:
    """One rewrite that was done: the rule, the nodes it replaced and those it brought, by name."""

    rule: str
    removed: tuple[str, ...]
    added: tuple[str, ...]


@dataclass
class Trace:
    """Everything a run of the driver did.

    Attributes:
        applied: the rewrites in order.
        sweeps: passes over the whole graph, the last one that changed nothing included.
        converged: False if the driver stopped at its bound before a fixed point.
    """

    applied: list[Applied] = field(default_factory=list)
    sweeps: int = 0
    converged: bool = True

    @property
    def counts(self) -> dict[str, int]:
        """How often each rule was applied, most often first."""
        found: dict[str, int] = {}
        for entry in self.applied:
            found[entry.rule] = found.get(entry.rule, 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
