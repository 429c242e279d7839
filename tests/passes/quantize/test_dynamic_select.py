"""`quantize.dynamic(select=…)`: what int8 does not speed up stays float, by a table or by a measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, print_module, verify
from mopt.passes.quantize import dynamic_select, dynamic_timing
from mopt.passes.quantize.dynamic import Dynamic
from mopt.passes.quantize.dynamic_operators import Limits
from mopt.runtime.profiler import timing_of
from onnx import numpy_helper


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Any]:
    yield SimpleNamespace(advance=lambda steps=1: None)


CONTEXT: Any = SimpleNamespace(seed=0, bindings={}, progress=bar)


def network() -> Module:
    """A convolution of few channels, which int8 slows down, and a large product, which it speeds up; twice."""
    text = """m (float[1, 3, 64, 64] x) => (float[1, 32, 1024] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w) r = Reshape(a, shape) m = MatMul(r, u) p = MatMul(m, v)
        y = Relu(p) }"""
    random = np.random.default_rng(0)
    weights = {"w": (32, 3, 3, 3), "u": (4096, 1024), "v": (1024, 1024)}
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]>{text}')
    for name, shape in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 32, 4096]), "shape"))
    return from_proto(proto)


def operators(result: Any) -> list[str]:
    return [node.op_type for node in result.module.nodes()]


def quantised(select: Any) -> Any:
    result = Dynamic(select=select, min_elements=100).run(network(), CONTEXT)
    assert not verify(result.module)
    return result


def test_the_table_keeps_a_thin_convolution_in_float_and_says_so() -> None:
    everything, chosen = quantised("all"), quantised("table")
    assert operators(everything).count("ConvInteger") == 1
    assert operators(chosen).count("ConvInteger") == 0
    assert operators(chosen).count("MatMulInteger") == 2
    (note,) = [note.message for note in chosen.notes if "gain time" in note.message]
    assert note.startswith("2 of 3 operators gain time in int8 (by the table)")
    assert any("int8 would save no time (by the table)" in note.message for note in chosen.notes)
    assert print_module(chosen.module) == print_module(quantised("table").module)


@pytest.mark.parametrize(
    ("low", "value", "high", "expected", "how"),
    [
        (0.4, 0.5, 0.6, 3, "measured here"), (1.5, 2.0, 3.0, 0, "measured here"),
        (0.9, 0.95, 1.0, 2, "by the table"), (1.0, 1.05, 1.1, 2, "by the table"),
        # A busy machine: what was measured seems clear, its interval is not.
        (0.4, 0.5, 1.2, 2, "by the table"), (0.7, 2.0, 3.0, 2, "by the table"),
    ],
)  # fmt: skip
def test_a_measurement_decides_where_its_whole_interval_is_clear(
    low: float, value: float, high: float, expected: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = SimpleNamespace(value=value, low=low, high=high)
    monkeypatch.setattr(dynamic_select.dynamic_timing, "ratio", lambda *_, **__: measured)
    result = quantised("measured")
    found = operators(result)
    assert found.count("ConvInteger") + found.count("MatMulInteger") == expected
    assert any(how in note.message for note in result.notes)


def test_noise_of_any_size_leaves_the_choice_to_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that a busy machine scatters over a factor of ten, differently in each run of the pass."""
    random = np.random.default_rng(0)
    chosen = set()

    def noisy(candidates: Any, *_: Any, **__: Any) -> Any:
        one, two = (random.lognormal(sigma=1.2, size=dynamic_timing.ROUNDS).tolist() for _ in candidates)
        return {"int8": timing_of(two, 1, ("float", one))}

    monkeypatch.setattr(dynamic_timing, "profile", noisy)
    for _ in range(3):
        chosen.add(tuple(operators(quantised("measured"))))
    assert chosen == {tuple(operators(quantised("table")))}


def test_an_operator_is_timed_alone_in_both_forms() -> None:
    nodes = {node.outputs[0].name: node for node in network().nodes()}
    share = dynamic_timing.ratio(nodes["p"], (1, 32, 1024), 13, Limits(True, 1), signed=())
    assert share is not None
    assert 0.01 < share.low <= share.value <= share.high < 100
    alone = dynamic_timing.alone(nodes["a"], (1, 3, 64, 64), 13)
    assert not verify(alone)
    assert [node.op_type for node in alone.nodes()] == ["Conv"]
    assert dynamic_timing.ratio(nodes["a"], (1, 3, 64, 64), 13, Limits(True, 10_000), signed=()) is None
