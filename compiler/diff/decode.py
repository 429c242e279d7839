"""Weights in a stored form: DequantizeLinear over integers, Gather over a codebook, Cast from half precision.

Where such operators stand in the place of a plain weight, the weight is computed, so that its error can be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from mopt.diff.scope import Kind, Scope, Source

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DECODERS = frozenset(
    {
        "DequantizeLinear", "Cast", "Gather", "Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Mul",
        "Add", "Sub", "Div", "Concat",
    }
)  # fmt: skip

_MAX_NODES = 12


def constant_cone(scope: Scope, source: Source) -> tuple[list[int], list[int]] | None:
    """Return the operators and the weights a value is computed from, if it is from weights and decoders only."""
    nodes: set[int] = set()
    weights: dict[int, None] = {}
    waiting = [source]
    while waiting:
        current = waiting.pop()
        if current.kind == Kind.WEIGHT:
            weights[current.index] = None
        elif current.kind == Kind.NODE and scope.types[current.index] in _DECODERS:
            if current.index not in nodes:
                nodes.add(current.index)
                waiting += scope.sources[current.index]
        elif current.kind != Kind.ABSENT:
            return None
        if len(nodes) > _MAX_NODES:
            return None
    return (sorted(nodes), list(weights)) if nodes and weights else None


def decoded(scope: Scope, source: Source, cone: tuple[list[int], list[int]]) -> NDArray[Any] | None:
    """Compute a value from its cone by ONNX's reference implementation; None where that does not know an operator."""
    from onnx.reference import ReferenceEvaluator

    value = scope.value(source)
    if value is None:
        return None
    feeds = {scope.weights[index].value.name or "": scope.weights[index].tensor.numpy() for index in cone[1]}
    graph = onnx.GraphProto(name="decode")
    graph.node.extend(ir.to_proto(scope.operators[number]) for number in cone[0])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in feeds)
    graph.output.append(onnx.ValueInfoProto(name=value.name))
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in scope.opsets.items()]
    try:
        (result,) = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets)).run(None, feeds)
    except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError, IndexError):
        # The reference implementation does not know every element type: the group is reported, its error is not.
        return None
    return result  # type: ignore[no-any-return]
