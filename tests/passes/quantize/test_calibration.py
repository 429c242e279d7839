"""Calibration: one value at a time, and data that gives nothing."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto
from mopt.passes.contract import PassError
from mopt.passes.quantize.calibration import calibrate
from mopt.runtime.ort import OrtRunner


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Any]:
    yield SimpleNamespace(advance=lambda steps=1: None)


CONTEXT: Any = SimpleNamespace(progress=bar)


class Wide:
    """Samples of unequal width, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return max(self._count, 1)

    def batches(self, size: int) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        for index in range(self._count):
            yield {"x": np.full((size, 4, 20_000 - 100 * (index % 7)), index + 1.0, np.float32)}


def chain(length: int) -> Module:
    body = " ".join(f"v{index} = Relu(v{index - 1})" for index in range(1, length))
    text = f"m (float[N, 4, W] x) => (float[N, 4, W] y) {{ v0 = Relu(x) {body} y = Neg(v{length - 1}) }}"
    return from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]>{text}'))


def peak(length: int, count: int) -> int:
    module = chain(length)
    values = {f"v{index}": None for index in range(length)}
    tracemalloc.start()
    calibrate(module, values, Wide(count), CONTEXT, batch=1, bins=False)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_grows_with_neither_the_samples_nor_the_values_observed() -> None:
    one = 4 * 20_000 * 4
    assert peak(4, 20) < peak(4, 2) + one // 2
    # 40 values of 320 kB together would be 12.8 MB; a few are held, besides what the graph itself takes.
    assert peak(40, 2) < peak(4, 2) + 4 * one


def test_data_that_gives_no_sample_is_refused() -> None:
    with pytest.raises(PassError, match="gave no sample"):
        calibrate(chain(2), {"v0": None}, Wide(0), CONTEXT, batch=1, bins=True)


def test_outputs_one_by_one_are_those_of_a_run() -> None:
    module = chain(3)
    x = np.random.default_rng(0).normal(size=(1, 4, 6)).astype(np.float32)
    with OrtRunner(module, patterns=False) as runner:
        assert [name for name, _ in runner.run_one_by_one({"x": x}, ["y"])] == ["y"]
        np.testing.assert_array_equal(
            dict(runner.run_one_by_one({"x": x.T.copy().T}, ["y"]))["y"], runner.run({"x": x})["y"]
        )
