"""The fixpoint driver: applies rules until none applies any more.

Each sweep derives one `View` and works a list of nodes off, in topological order at first; a rewrite puts the nodes
around it back on the list. Sweeps repeat until one changes nothing, so conditions on things derived once per sweep
(symbolic shapes above all) are met in the end, too. Cost is about linear in the size of the graph per sweep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import onnx_ir as ir
from mopt.ir import provenance
from mopt.ir.walk import nested_graphs, nested_nodes
from mopt.rewrite.rule import Applied, Miss, Replacement, Rule, Trace
from mopt.rewrite.surgery import SurgeryError, apply, drop_dead, drop_unused_initializers
from mopt.rewrite.view import View

if TYPE_CHECKING:
    from mopt.ir.module import Module

MAX_SWEEPS: Final = 24
DEAD: Final = "dead-code"


def apply_rules(
    module: Module,
    rules: Iterable[Rule],
    *,
    by: str = "rewrite",
    max_growth: int = 1 << 20,
    max_sweeps: int = MAX_SWEEPS,
) -> Trace:
    """Rewrite a module in place to a fixed point of the rules and return what was done.

    Nodes and initializers that nothing reads any more leave the graph. The interface (names, number, order and
    element types of inputs and outputs) stays as it is.

    Args:
        module: what to rewrite.
        rules: tried in this order at each node.
        by: the step's name for provenance, `simplify.rules` say; the rule's name is appended.
        max_growth: bytes by which a rule may enlarge the file for one constant it computes.
        max_sweeps: bound on sweeps; reaching it is reported by `Trace.converged`.
    """
    usable = [rule for rule in rules if rule.opset <= module.opset]
    trace = Trace()
    for _ in range(max_sweeps):
        trace.sweeps += 1
        changed = _Sweep(module, usable, by, max_growth, trace).run()
        if changed:
            module.touch()
        if not changed or not trace.converged:
            return trace
    trace.converged = False
    return trace


class _Sweep:
    def __init__(self, module: Module, rules: Sequence[Rule], by: str, max_growth: int, trace: Trace) -> None:
        self.module, self.by, self.trace = module, by, trace
        self.removed_initializers = 0
        self._drop_dead(nested_nodes(module.graph))
        if self.dead:
            module.touch()
        self.view = View(module, max_growth=max_growth)
        self.everywhere = [rule for rule in rules if not rule.anchors]
        self.by_operator: dict[str, list[Rule]] = {}
        for rule in rules:
            for operator in rule.anchors:
                self.by_operator.setdefault(operator, [])
        for operator in self.by_operator:
            self.by_operator[operator] = [rule for rule in rules if not rule.anchors or operator in rule.anchors]
        self.queue: deque[ir.Node] = deque(nested_nodes(module.graph))
        self.queued = set(self.queue)
        # A pair of rules that undo each other must end in a report, not hang the build.
        self.budget = 20 * len(self.queue) + 200

    def run(self) -> bool:
        before = len(self.trace.applied)
        while self.queue and self.budget:
            node = self.queue.popleft()
            self.queued.discard(node)
            if node.graph is not None:
                self._visit(node)
        if not self.budget:
            self.trace.converged = False
        changed = len(self.trace.applied) > before or self.dead > 0
        dropped = sum(drop_unused_initializers(graph) for graph in nested_graphs(self.module.graph))
        return changed or dropped > 0

    def _visit(self, node: ir.Node) -> None:
        candidates = self.everywhere
        if node.domain in ("", "ai.onnx"):
            candidates = self.by_operator.get(node.op_type, self.everywhere)
        for rule in candidates:
            if rule.after and not self.view.follows(node, rule.after):
                continue
            found = rule.match(self.view, node)
            if isinstance(found, Miss):
                continue
            replacement = rule.rewrite(self.view, found)
            try:
                added = apply(replacement, node)
            except SurgeryError:
                continue
            self._after(rule, replacement, added)
            return

    def _after(self, rule: Rule, replacement: Replacement, added: Sequence[ir.Node]) -> None:
        self.budget -= 1
        provenance.inherit(list(added), list(replacement.removed), f"{self.by}/{rule.name}")
        for node in added:
            self.view.symbolic.infer(node)
        near: list[ir.Node] = list(added)
        for value in replacement.values.values():
            producer = value.producer()
            if producer is not None:
                near.append(producer)
            near.extend(use.node for use in value.uses())
        for node in replacement.removed:
            near.extend(parent for parent in node.predecessors())
        self.view.forget(near)
        removed = tuple(node.name or node.op_type for node in replacement.removed)
        self.trace.applied.append(Applied(rule.name, removed, tuple(node.name or node.op_type for node in added)))
        self._drop_dead([*replacement.removed])
        for node in near:
            if node.graph is not None and node not in self.queued:
                self.queued.add(node)
                self.queue.append(node)

    dead = 0

    def _drop_dead(self, nodes: Iterable[ir.Node]) -> None:
        for node in drop_dead(nodes):
            self.dead += 1
            self.trace.applied.append(Applied(DEAD, (node.name or node.op_type,), ()))
