"""Common subexpressions: equal nodes over equal inputs are computed once."""

# ruff: noqa: D102  (match and rewrite are documented once, in Rule)
from __future__ import annotations

import onnx_ir as ir
from mopt.ir.walk import subgraphs_of
from mopt.rewrite import Bindings, Miss, Replacement, Rule, View

_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


class MergeDuplicates(Rule):
    """A node that repeats an earlier one → the earlier one."""

    name = "merge-duplicates"
    algebra = "f(x) and f(x) = one f(x), read twice"

    def match(self, view: View, node: ir.Node) -> Bindings | Miss:
        if node.op_type in (*_RANDOM, "Dropout", "Constant") or subgraphs_of(node):
            return Miss(f"{node.op_type} is not merged")
        values = [value for value in node.inputs if value is not None]
        if not values:
            return Miss("it has no inputs")
        own = view.position(node)
        if own is None:
            return Miss("it came in this sweep; the next one looks at it", 1)
        rarest = min(values, key=lambda value: len(value.uses()))
        for use in rarest.uses():
            other = use.node
            if other is node or other.graph is not node.graph or not _equal(node, other):
                continue
            place = view.position(other)
            if place is None or place > own:
                continue
            if any(output.is_graph_output() for output in node.outputs):
                return Miss("it is an output of the graph", 2)
            return {"node": node, "other": other}
        return Miss("no earlier node equals it", 1)

    def rewrite(self, view: View, bindings: Bindings) -> Replacement:
        node, other = bindings["node"], bindings["other"]
        return Replacement([node], dict(zip(node.outputs, other.outputs, strict=True)))


def _equal(a: ir.Node, b: ir.Node) -> bool:
    if (a.op_type, a.domain, a.overload) != (b.op_type, b.domain, b.overload):
        return False
    if list(a.inputs) != list(b.inputs) or len(a.outputs) != len(b.outputs) or set(a.attributes) != set(b.attributes):
        return False
    return all(_same_attribute(attribute, b.attributes[name]) for name, attribute in a.attributes.items())


def _same_attribute(a: ir.Attr, b: ir.Attr) -> bool:
    if a.type != b.type or a.is_ref() != b.is_ref():
        return False
    if a.type == ir.AttributeType.TENSOR and not a.is_ref():
        left, right = a.as_tensor(), b.as_tensor()
        same = left.dtype == right.dtype and tuple(left.shape) == tuple(right.shape)
        return same and left.tobytes() == right.tobytes()
    if a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSORS):
        return False
    return bool(a.value == b.value) and a.ref_attr_name == b.ref_attr_name
