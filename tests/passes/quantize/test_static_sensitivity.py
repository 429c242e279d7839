"""`quantize.static(budget=…)`: roundings measured alone add up; what costs least time for most error stays float."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, provenance
from mopt.passes.quantize.static import Static
from mopt.passes.quantize.static_placement import Placement
from mopt.passes.quantize.static_time import Clock, Links
from mopt.passes.quantize.static_units import find_units
from mopt.runtime.data.splits import Samples
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, Ratio
from onnx import numpy_helper

LAYERS = 6


class Bar:
    def advance(self, steps: int = 1) -> None: ...
    def describe(self, text: str) -> None: ...


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Bar]:
    yield Bar()


@pytest.fixture(scope="module")
def chain() -> Module:
    """Six 1 × 1 convolutions; what the fourth gives has one channel of fifty times the range of the others."""
    random = np.random.default_rng(0)
    lines, weights = [], {}
    for index in range(LAYERS):
        weight = random.normal(size=(128, 128, 1, 1)).astype(np.float32) / 10
        if index == 3:
            weight[5] *= 50
        if index == 4:
            weight[:, 5] /= 50
        weights[f"w{index}"] = weight
        lines.append(f"c{index} = Conv({'x' if index == 0 else f'r{index - 1}'}, w{index}) r{index} = Relu(c{index})")
    text = f"m (float[N, 128, 12, 12] x) => (float[N, 128, M, K] y) {{ {' '.join(lines)} y = Identity(r{LAYERS - 1}) }}"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]>{text}')
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    found = from_proto(proto)
    provenance.stamp_source(found)
    return found


@pytest.fixture(scope="module")
def given() -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=(128, 12, 12)).astype(np.float32)} for _ in range(6)]


def quantized(before: Module, given: list[dict[str, Any]], **options: Any) -> tuple[Module, tuple[Any, ...]]:
    split = Samples(given, len(given), "calib")
    asked: Any = SimpleNamespace(seed=0, bindings={}, progress=bar, split=lambda _: split)
    result = Static(data=DataRef("d", "calib"), **options).run(before.clone(), asked)
    return result.module, result.notes


def decibels(before: Module, after: Module, given: list[dict[str, Any]]) -> float:
    with OrtRunner(before) as one, OrtRunner(after) as two:
        pairs = [(one.run({"x": x["x"][None]})["y"], two.run({"x": x["x"][None]})["y"]) for x in given]
    return float(-10 * np.log10(np.mean([np.square(b - a).mean() / np.square(a).mean() for a, b in pairs])))


def left(notes: tuple[Any, ...]) -> list[str]:
    return [note.nodes[0] for note in notes if "as sensitive" in note.message]


def predicted(notes: tuple[Any, ...]) -> tuple[float, float]:
    (found,) = (re.search(r"([\d.]+) to ([\d.]+) dB", note.message) for note in notes if " dB " in note.message)
    assert found
    return float(found[1]), float(found[2])


def test_both_sides_of_the_worst_value_stay_float(chain: Module, given: list[dict[str, Any]]) -> None:
    plain, _ = quantized(chain, given, method="minmax")
    after, notes = quantized(chain, given, method="minmax", budget=Ratio(0.7))
    names = [node.name for node in chain.nodes() if node.op_type == "Conv"]
    assert {names[3], names[4]} <= set(left(notes)) < set(names)
    assert decibels(chain, after, given) > decibels(chain, plain, given) + 6
    before, later = predicted(notes)
    assert before == pytest.approx(decibels(chain, plain, given), abs=2.5)
    assert later == pytest.approx(decibels(chain, after, given), abs=2.5)


def test_a_budget_that_buys_nothing_is_said(chain: Module, given: list[dict[str, Any]]) -> None:
    _, notes = quantized(chain, given, method="minmax", budget=Ratio(0.01))
    assert not left(notes)
    assert any("`budget=1%` buys nothing" in note.message for note in notes)


@pytest.mark.parametrize("rounding", ["nearest", "gptq"])
def test_the_same_twice_and_float_weights_are_the_old_ones(
    chain: Module, given: list[dict[str, Any]], rounding: str
) -> None:
    (one, notes), (_, again) = (quantized(chain, given, budget=Ratio(0.7), rounding=rounding) for _ in range(2))
    assert [note.message for note in notes] == [note.message for note in again]
    old = {weight.name: weight.numpy() for weight in chain.weights()}
    real = [weight for weight in one.weights() if weight.dtype == "f32" and weight.size == 128 * 128]
    assert real and all(any(np.array_equal(weight.numpy(), array) for array in old.values()) for weight in real)


def test_a_value_is_rounded_until_all_that_touch_it_are_float(chain: Module) -> None:
    units, _ = find_units(chain, regrid=True)
    links = Links(Placement(units))
    value = units[2].result
    assert links.on_bytes(value, units) and links.on_bytes(value, {units[2]}) and links.on_bytes(value, {units[3]})
    assert not links.on_bytes(value, set(units) - {units[2], units[3]})


def test_borders_cost_time_where_a_table_holds(chain: Module) -> None:
    units, _ = find_units(chain, regrid=True)
    links, shapes = Links(Placement(units)), {unit.result.name or "": (1, 128, 12, 12) for unit in units}
    macs = {unit.name: 128 * 128 * 144 for unit in units}
    values = [value for unit in units for value in links.of(unit)]
    alternating, together = set(units[::2]), set(units[:3])
    clock = Clock(links, shapes, macs, table=True)
    assert clock.total(units, values, alternating) > clock.total(units, values, together)
    plain = Clock(links, shapes, macs, table=False)
    assert plain.total(units, values, alternating) == plain.total(units, values, together)


def test_a_float_sum_keeps_its_stream_exact_though_the_next_block_reads_bytes() -> None:
    """Two residual blocks; the stream's range is wide, what each block adds is small."""
    random = np.random.default_rng(0)
    text = (
        "m (float[N, 256, 8, 8] x) => (float[N, 256, M, K] y) { s = Conv(x, w0) a = Conv(s, w1) b = Relu(a)"
        " c = Conv(b, w2) t = Add(s, c) d = Conv(t, w3) e = Relu(d) f = Conv(e, w4) y = Add(t, f) }"
    )
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]>{text}')
    weights = [random.normal(size=(256, 256, 1, 1)) / scale for scale in (4, 120, 16, 120, 16)]
    proto.graph.initializer.extend(
        numpy_helper.from_array(array.astype(np.float32), f"w{index}") for index, array in enumerate(weights)
    )
    before = from_proto(proto)
    provenance.stamp_source(before)
    samples = [{"x": random.normal(size=(256, 8, 8)).astype(np.float32)} for _ in range(6)]
    plain, _ = quantized(before, samples)
    after, notes = quantized(before, samples, budget=Ratio(0.4))
    sums = [node.name for node in before.nodes() if node.op_type == "Add"]
    assert set(sums) <= set(left(notes))
    reads = [node for node in after.nodes() if node.op_type == "Conv" and node.name not in left(notes)]
    assert len(reads) >= 3  # the blocks themselves are still on bytes
    assert decibels(before, after, samples) > decibels(before, plain, samples) + 2
    assert predicted(notes)[1] == pytest.approx(decibels(before, after, samples), abs=2.5)
