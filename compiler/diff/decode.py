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

_DEQUANTIZE_SINCE = 19
"""The oldest DequantizeLinear that ONNX's reference implementation has; it computes what the older ones do."""


def constant_cone(scope: Scope, source: Source) -> tuple[list[int], list[int]] | None:
    """Return the operators and the weights a value is computed from, if it is from weights and decoders only."""
    nodes: set[int] = set()
    weights: dict[int, None] = {}
    waiting = [source]
    while waiting:
        current = waiting.pop()
        if current.kind == Kind.WEIGHT:
            weights[current.number] = None
        elif current.kind == Kind.NODE and scope.types[current.number] in _DECODERS:
            if current.number not in nodes:
                nodes.add(current.number)
                waiting += scope.sources[current.number]
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
    for oldest in (1, _DEQUANTIZE_SINCE):
        imports = [
            onnx.helper.make_opsetid(domain, version if domain else max(version, oldest))
            for domain, version in scope.opsets.items()
        ]
        try:
            results: Any = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=imports)).run(None, feeds)
        except (RuntimeError, TypeError, ValueError, NotImplementedError, KeyError, IndexError):
            # It does not know every operator and element type: the group is reported then, its error is not.
            continue
        array: NDArray[Any] = results[0]
        return array
    return None
