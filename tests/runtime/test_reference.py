"""What was prepared for an engine is judged on a CPU, in the numbers of its graph."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mopt.passes.convert.bfloat16 import Bfloat16
from mopt.passes.convert.float16 import Float16
from mopt.passes.convert.tensorrt import TensorRT
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.reference import reference
from onnx import TensorProto, helper

F = TensorProto.FLOAT
CONTEXT: Any = SimpleNamespace(seed=0, bindings={}, scratch=Path())


@pytest.fixture
def quantised(build):
    """Clip, Q, DQ, Conv in int8: onnxruntime's optimiser fails on it once its bytes are floats."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Clip", ["x", "low", "high"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
        helper.make_node("Conv", ["d", "wd"], ["y"]),
    ]
    constants = {
        "low": np.float32(0), "high": np.float32(6), "s": np.float32(6 / 127), "z": np.int8(0),
        "w": rng.integers(-127, 128, (4, 3, 1, 1), np.int8), "ws": np.full(4, 0.01, np.float32),
    }  # fmt: skip
    return build(nodes, [("x", F, [1, 3, 5, 5])], [("y", F, [1, 4, 5, 5])], constants)


@pytest.mark.parametrize(
    "passes",
    [
        [Bfloat16(scales=True)],
        [Float16(scales=True)],
        [TensorRT(grids="e4m3")],
        [TensorRT(kernels="tensorrt_rtx", grids="e4m3"), Float16(scales=True)],
        [TensorRT(grids="e4m3"), Bfloat16(scales=True)],
    ],
    ids=["bf16", "f16", "f8", "f8 in f16", "f8 in bf16"],
)
def test_it_runs_and_gives_the_same_up_to_its_types(quantised, passes):
    feeds = {name: 5 * array for name, array in seeded_inputs(quantised).items()}
    want = OrtRunner(quantised, optimize=False).run(feeds)["y"]
    prepared = quantised.clone()
    for one in passes:
        prepared = one.run(prepared, CONTEXT).module
    got = reference(prepared).run(feeds)["y"].astype(np.float32)
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert 0 < error < 0.06
