"""`If` whose condition is known: the branch taken, without the other."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import onnx_ir as ir
from mopt.ir.walk import nested_graphs
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View


class InlineIf(Rule):
    """`If` with a constant condition → the nodes of the branch it takes."""

    name = "inline-if"
    anchors = ("If",)
    algebra = "If(true; f, g) = f()"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        known = view.numbers(node.inputs[0])
        if known is None:
            constant = view.constant(node.inputs[0])
            known = None if constant is None else [int(item) for item in constant.reshape(-1)]
        if known is None or len(known) != 1:
            return Miss("its condition is not known before the model runs")
        branch = node.attributes["then_branch" if known[0] else "else_branch"].as_graph()
        if branch.inputs:
            return Miss("the branch has inputs of its own", 1)
        return {"node": node, "branch": branch}

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node = bindings["node"]
        branch = bindings["branch"].clone(allow_outer_scope_values=True)
        constants = list(branch.initializers.values())
        results = list(branch.outputs)
        # The other branch may use the same names, and so may what stands after this node.
        for graph in nested_graphs(branch):
            own = list(graph.initializers.values()) + [output for inner in graph for output in inner.outputs]
            for value in own:
                if value.name:
                    value.name = view.name(value.name)
        branch.outputs.clear()
        branch.initializers.clear()
        nodes = list(branch)
        branch.remove(nodes)
        return Replacement([node], dict(zip(node.outputs, results, strict=True)), nodes, constants)
