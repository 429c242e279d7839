"""GPTQ-style rounding: better than the nearest level on its data and on fresh data of the same kind."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, provenance, to_proto, verify
from mopt.passes.contract import PassError
from mopt.passes.quantize import blocks, weights_gptq
from mopt.passes.quantize.weights import Weights
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef
from onnx import numpy_helper


class Samples:
    """Rows that vary in few directions, as activations do; `bad` puts a NaN into one."""

    name = "rows"

    def __init__(self, count: int, seed: int, *, bad: bool = False) -> None:
        mixing = np.random.default_rng(7).normal(size=(12, 96))
        rows = np.random.default_rng(seed).normal(size=(count, 5, 12)) @ mixing
        self.rows = (rows + 0.05 * np.random.default_rng(seed + 1).normal(size=(count, 5, 96))).astype(np.float32)
        if bad:
            self.rows[-1, 0, 0] = np.nan

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Any:
        return ({"x": row} for row in self.rows)

    def batches(self, size: int) -> Any:
        assert size == 1
        return ({"x": row[None]} for row in self.rows)


def context(samples: Any) -> Any:
    progress = SimpleNamespace(advance=lambda: None)
    return SimpleNamespace(seed=0, bindings={}, progress=lambda *_: nullcontext(progress), split=lambda _: samples)


def network() -> Module:
    text = "m (float[N, 5, 96] x) => (float[N, 5, 32] y) { a = MatMul(x, first) h = Relu(a) y = MatMul(h, second) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    random = np.random.default_rng(0)
    for name, shape in {"first": (96, 64), "second": (64, 32)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    module = from_proto(proto)
    provenance.stamp_source(module)
    return module


def quantized(samples: Any, **options: Any) -> Any:
    operation = Weights(4, min_elements=1, compute="f32", **options)
    result = operation.run(network(), context(samples))
    assert not verify(result.module)
    return result


@pytest.mark.parametrize("symmetric", [False, True])
def test_outputs_on_fresh_data_are_closer_than_by_rounding_to_the_nearest(symmetric: bool) -> None:
    fresh = Samples(20, 5).rows
    expected = OrtRunner(network()).run({"x": fresh})["y"]
    errors = {}
    for data in (None, DataRef("rows")):
        result = quantized(Samples(64, 1), data=data, symmetric=symmetric)
        errors[data] = float(np.std(OrtRunner(result.module).run({"x": fresh})["y"] - expected))
    assert errors[DataRef("rows")] < 0.5 * errors[None]


def test_says_what_was_rounded_how_and_two_runs_agree() -> None:
    first, second = (quantized(Samples(16, 1), data=DataRef("rows")) for _ in range(2))
    assert first.notes[1].message == "2 weights of products were rounded GPTQ-style, the others to the nearest"
    assert to_proto(first.module).SerializeToString() == to_proto(second.module).SerializeToString()


def test_without_correlation_it_is_rounding_to_the_nearest() -> None:
    array = np.random.default_rng(0).normal(size=(20, 70)).astype(np.float32)
    found = weights_gptq.quantize(array, np.eye(70), 4, 32, symmetric=False)
    nearest = blocks.quantize(array, 4, 32, symmetric=False)
    assert np.mean(found.values != nearest.values) < 0.001
    assert np.array_equal(found.zero, nearest.zero)


def test_zeros_stay_zero() -> None:
    random = np.random.default_rng(0)
    array = random.normal(size=(20, 64)).astype(np.float32)
    array[random.random(array.shape) < 0.4] = 0
    rows = Samples(30, 3).rows.reshape(-1, 96)[:, :64].astype(np.float64)
    for symmetric in (False, True):
        found = weights_gptq.quantize(array, rows.T @ rows, 4, 16, symmetric=symmetric)
        assert np.all(blocks.dequantize(found, 16)[array == 0] == 0)


def test_inputs_that_are_always_zero() -> None:
    rows = np.zeros((4, 32))
    found = weights_gptq.quantize(np.ones((3, 32), np.float32), rows.T @ rows, 8, 32, symmetric=False)
    np.testing.assert_allclose(blocks.dequantize(found, 32), 1, atol=1e-6)


def test_refuses_data_that_tells_nothing() -> None:
    with pytest.raises(PassError, match="`rows` has no samples"):
        quantized(Samples(0, 1), data=DataRef("rows"))
    with pytest.raises(PassError, match="`x` is NaN or infinite on a calibration sample"):
        quantized(Samples(3, 1, bad=True), data=DataRef("rows"))
