"""Timing one operator in float and in its dynamically quantised form, alone and at the sizes it really sees."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.passes.quantize.dynamic_operators import REWRITES, Limits, constant
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import Ratio, profile

ROUNDS: Final = 15
"""Paired runs at least."""
_PRECISION: Final = 0.05
"""Half of the ratio's interval: more rounds are run until it is this share of the ratio, or the time is up."""
_LONGEST: Final = 0.5
"""Seconds that an operator's rounds may take beyond the fewest."""
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


def ratio(node: ir.Node, shape: Sequence[int], opset: int, limits: Limits, *, signed: Collection[str]) -> Ratio | None:
    """Return the time of the quantised form as a share of the float one's, with its interval.

    Both forms run in turns on one thread; the ratio is the median over pairs. None where the operator has no quantised
    form.
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
        found = profile(
            {"float": one, "int8": two}, {"float": feeds, "int8": feeds}, runs=ROUNDS, baselines="float",
            precision=_PRECISION, seconds=_LONGEST,
        )  # fmt: skip
    return found["int8"].ratio
