"""Timing one operator in float and in its dynamically quantised form, alone and at the sizes it really sees."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.passes.quantize.dynamic_operators import REWRITES, Limits, constant
from mopt.runtime.ort import OrtRunner

ROUNDS: Final = 15
_ROUND: Final = 3e-4
"""Seconds a round takes at least: shorter runs are repeated within it."""
_LONGEST: Final = 0.5
"""Seconds after which no further round of an operator is begun, once there are three."""
_WEIGHTS: Final = {"MatMul": (1,), "Gemm": (1, 2), "Conv": (1, 2), "LSTM": (1, 2, 3)}


def alone(node: ir.Node, shape: Sequence[int], opset: int) -> Module:
    """Return a model of one operator with its weights, that reads `x` f32[shape].

    What else it reads (an LSTM's lengths and first states) is left out.
    """
    x = ir.Value(name="x", shape=ir.Shape(list(shape)), type=ir.TensorType(ir.DataType.FLOAT))
    inputs: list[ir.Value | None] = [x]
    held = []
    for index in range(1, max(_WEIGHTS[node.op_type]) + 1):
        array = constant(node.inputs[index]) if index < len(node.inputs) else None
        if array is None or index not in _WEIGHTS[node.op_type]:
            inputs.append(None)
            continue
        tensor = ir.Tensor(np.ascontiguousarray(array), name=f"w{index}")
        held.append(
            ir.Value(
                name=f"w{index}", shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
        )
        inputs.append(held[-1])
    while inputs[-1] is None:
        inputs.pop()
    copy = ir.Node("", node.op_type, inputs, list(node.attributes.values()), name="node")
    copy.outputs[0].name, copy.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [copy.outputs[0]], nodes=[copy], initializers=held, opset_imports={"": opset}, name="alone")
    return Module(ir.Model(graph, ir_version=8))


def ratio(node: ir.Node, shape: Sequence[int], opset: int, limits: Limits, *, signed: bool) -> float | None:
    """Return the time of the quantised form as a share of the float one's: the median over paired rounds.

    One thread; None where the operator has no quantised form.
    """
    real = alone(node, shape, opset)
    real.infer_shapes()
    integer = real.clone()
    integer.infer_shapes()
    if REWRITES[node.op_type](Editor(integer, signed=signed), next(iter(integer.graph)), limits) is not None:
        return None
    integer.touch()
    feeds = {"x": np.random.default_rng(0).normal(size=tuple(shape)).astype(np.float32)}
    with OrtRunner(real) as one, OrtRunner(integer) as two:
        return _paired(one.run, two.run, feeds)


def _paired(
    one: Callable[[Mapping[str, Any]], Any], two: Callable[[Mapping[str, Any]], Any], feeds: Mapping[str, Any]
) -> float:
    repeats = [max(1, int(_ROUND / max(_timed(run, feeds, 2), 1e-9))) for run in (one, two)]
    found: list[float] = []
    start = time.perf_counter()
    while len(found) < ROUNDS and (len(found) < 3 or time.perf_counter() - start < _LONGEST):
        # Every other round begins with the other one: what a round leaves in the caches favours neither.
        order = ((one, 0), (two, 1)) if len(found) % 2 else ((two, 1), (one, 0))
        seconds = {index: _timed(run, feeds, repeats[index]) for run, index in order}
        found.append(seconds[1] / seconds[0])
    return median(found)


def _timed(run: Callable[[Mapping[str, Any]], Any], feeds: Mapping[str, Any], times: int) -> float:
    """Return the mean seconds of a run."""
    start = time.perf_counter()
    for _ in range(times):
        run(feeds)
    return (time.perf_counter() - start) / times
