"""Options of `quantize.static` that change weights before rounding: equalisation, SmoothQuant, GPTQ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, provenance, verify
from mopt.passes.contract import PassError
from mopt.passes.quantize.static import Static
from mopt.passes.quantize.static_channels import groups
from mopt.passes.quantize.static_correction import before_calibration
from mopt.passes.quantize.static_patches import patches_of
from mopt.passes.quantize.static_rounding import gptq, round_weights
from mopt.passes.quantize.static_units import find_units
from mopt.passes.quantize.symmetric import quantize
from mopt.runtime.data.splits import Samples
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef
from onnx import numpy_helper

DATA = DataRef("d", "calib")


class Bar:
    def advance(self, steps: int = 1) -> None: ...
    def describe(self, text: str) -> None: ...


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Bar]:
    yield Bar()


def context(samples: list[Any]) -> Any:
    split = Samples(samples, len(samples), "calib")
    return SimpleNamespace(seed=0, bindings={}, scratch=Path(), progress=bar, split=lambda _: split)


def module(text: str, weights: dict[str, Any], opset: int = 17) -> Module:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>{text}')
    found = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in found.items())
    onnx.checker.check_model(proto)
    loaded = from_proto(proto)
    provenance.stamp_source(loaded)
    loaded.infer_shapes()
    return loaded


def samples(*shape: int, count: int = 12, seed: int = 1) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(count)]


def outputs(found: Module, given: list[Any]) -> np.ndarray[Any, Any]:
    with OrtRunner(found) as runner:
        return np.concatenate([runner.run({"x": sample["x"][None]})["y"] for sample in given])


def corrected(before: Module, given: list[Any], **options: Any) -> tuple[Module, list[Any]]:
    copy, asked = before.clone(), context(given)
    notes = before_calibration(copy, Static(data=DATA, **options), asked.split(None), asked)
    assert not verify(copy)
    return copy, notes


def quantized(before: Module, given: list[Any], **options: Any) -> Module:
    found = Static(data=DATA, **options).run(before.clone(), context(given)).module
    assert not verify(found)
    assert (found.inputs, found.outputs) == (before.inputs, before.outputs)
    return found


def error(before: Module, after: Module, given: list[Any]) -> float:
    wanted = outputs(before, given)
    return float(np.mean((outputs(after, given) - wanted) ** 2) / np.var(wanted))


def inverted_residual() -> Module:
    """A stem, two inverted residuals that share a stream, and a head; channels differ in range by up to 300."""
    random = np.random.default_rng(0)
    text = (
        "m (float[N, 8, 10, 10] x) => (float[N, 6, 10, 10] y) { s = Conv(x, stem)"
        " a0 = Conv(s, expand0) b0 = Clip(a0, zero, six) c0 = Conv<group=24, pads=[1, 1, 1, 1]>(b0, deep0, bias0)"
        " d0 = Clip(c0, zero, six) e0 = Conv(d0, project0) s0 = Add(s, e0)"
        " a1 = Conv(s0, expand1) b1 = Relu(a1) e1 = Conv(b1, project1) s1 = Add(s0, e1) y = Conv(s1, head) }"
    )
    uneven = 10 ** random.uniform(-1.5, 1, size=24)
    stream = 10 ** random.uniform(-1, 1, size=12)
    normal = lambda *shape: random.normal(size=shape) / np.sqrt(np.prod(shape[1:]))  # noqa: E731
    first, last = (slice(None), None, None, None), (None, slice(None), None, None)
    return module(text, {
        "zero": 0, "six": 6, "stem": normal(12, 8, 1, 1) * stream[first],
        "expand0": normal(24, 12, 1, 1) / stream[last] * uneven[first],
        "deep0": 3 * normal(24, 1, 3, 3) / uneven[first],
        "bias0": random.normal(size=24), "project0": normal(12, 24, 1, 1) * stream[first],
        "expand1": normal(24, 12, 1, 1) / stream[last] * uneven[first],
        "project1": normal(12, 24, 1, 1) / uneven[last] * stream[first], "head": normal(6, 12, 1, 1) / stream[last],
    })  # fmt: skip


def test_a_residual_stream_is_one_group() -> None:
    found = groups(inverted_residual())
    sizes = [(len(group.producers), len(group.consumers), group.ceiling) for group in found]
    assert sorted(sizes, key=str) == sorted([(3, 3, None), (1, 1, 6.0), (1, 1, 6.0), (1, 1, None)], key=str)


def test_what_is_not_homogeneous_or_leaves_the_graph_is_no_group() -> None:
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(8, 8, 1, 1)), "v": random.normal(size=(8, 8, 1, 1))}
    for middle in ("h = HardSigmoid(a) m = Mul(a, h)", "m = Sigmoid(a)", "m = Clip(a, low, high)"):
        ends = {"low": -1, "high": 1} if "Clip" in middle else {}
        text = f"m (float[N, 8, 4, 4] x) => (float[N, 8, 4, 4] y) {{ a = Conv(x, w) {middle} y = Conv(m, v) }}"
        assert groups(module(text, {**weights, **ends})) == []
    text = "m (float[N, 8, 4, 4] x) => (float[N, 8, 4, 4] a, float[N, 8, 4, 4] y) { a = Conv(x, w) y = Conv(a, v) }"
    assert groups(module(text, weights)) == []


def test_equalisation_keeps_results_and_lowers_the_error_of_rounding() -> None:
    before, given, test = inverted_residual(), samples(8, 10, 10, count=32), samples(8, 10, 10, seed=7)
    equal, notes = corrected(before, given, equalize=True)
    assert notes[0].message.startswith("equalised the channels of")
    assert error(before, equal, test) < 1e-5
    plain, better = (quantized(before, given, equalize=on) for on in (False, True))
    assert error(before, better, test) < 0.5 * error(before, plain, test)


def test_equalisation_is_deterministic() -> None:
    before, given = inverted_residual(), samples(8, 10, 10)
    one, two = (quantized(before, given, equalize=True, rounding="gptq") for _ in range(2))
    assert [(w.name, w.numpy().tobytes()) for w in one.weights()] == [
        (w.name, w.numpy().tobytes()) for w in two.weights()
    ]


OUTLIERS = np.where(np.arange(32) % 11 == 3, 60.0, 0.5)


@pytest.mark.parametrize("spelling", ["LayerNormalization(x, gain, offset)", "x Mul Add"])
@pytest.mark.parametrize("residual", [False, True])
def test_smoothing_moves_outliers_into_products(spelling: str, residual: bool) -> None:
    random = np.random.default_rng(3)
    made = "n = Mul(x, gain) h = Add(n, offset)" if "Mul" in spelling else f"h = {spelling}"
    last = "r = MatMul(g, v) y = Add(r, h)" if residual else "y = MatMul(g, v)"
    text = f"m (float[N, 6, 32] x) => (float[N, 6, 32] y) {{ {made} p = MatMul(h, w) g = Relu(p) {last} }}"
    before = module(text, {
        "gain": OUTLIERS, "offset": random.normal(size=32), "w": random.normal(size=(32, 64)) / OUTLIERS[:, None] / 6,
        "v": random.normal(size=(64, 32)) / 8,
    })  # fmt: skip
    given, test = samples(6, 32), samples(6, 32, seed=9)
    smoothed, notes = corrected(before, given, smooth=True)
    assert notes[0].message.startswith("moved channels' ranges of 1 of 1")
    assert ("given back to other readers of 1" in notes[0].message) == residual
    assert error(before, smoothed, test) < 1e-9
    plain, better = (quantized(before, given, smooth=on) for on in (False, True))
    assert error(before, better, test) < 0.3 * error(before, plain, test)


CONVOLUTIONS = [
    ((8, 6, 3, 3), "pads=[1, 1, 1, 1]", (6, 9, 9)),
    ((8, 6, 3, 3), "pads=[0, 1, 1, 2], strides=[2, 1], dilations=[1, 2]", (6, 9, 9)),
    ((8, 3, 3, 1), "group=2, auto_pad=\"VALID\"", (6, 9, 9)),
    ((6, 1, 5, 5), "group=6, pads=[2, 2, 2, 2], strides=[2, 2]", (6, 9, 9)),
    ((8, 6, 3), "pads=[1, 1]", (6, 20)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "attributes", "size"), CONVOLUTIONS)
def test_patches_are_what_a_convolution_reads(shape: Any, attributes: str, size: Any) -> None:
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    dims = ", ".join(map(str, size))
    before = module(
        f"m (float[1, {dims}] x) => (float[1, C, {', '.join('ABC'[: len(size) - 1]).replace('C', 'D')}] y)"
        f" {{ y = Conv<{attributes}>(x, w) }}",
        {"w": weight},
    )
    (unit,) = find_units(before, regrid=True)[0]
    patches = patches_of(unit)
    assert patches is not None
    given = samples(*size, count=1)
    wanted = outputs(before, given)
    rows = patches.rows(given[0]["x"][None], 1)
    found = np.matmul(rows, patches.split(weight).transpose(0, 2, 1))  # [groups, rows, outputs]
    assert np.allclose(found.transpose(0, 2, 1).reshape(wanted.shape), wanted, atol=1e-4)
    assert np.array_equal(patches.join(patches.split(weight), weight.shape), weight)


def test_gptq_lowers_the_error_of_results_and_keeps_grid_and_zeros() -> None:
    random = np.random.default_rng(5)
    mix = random.normal(size=(48, 48)) * np.logspace(0, -2, 48)
    inputs = random.normal(size=(2, 500, 48)) @ mix
    weight = random.normal(size=(2, 10, 48))
    weight[:, :, ::7] = 0
    scales = np.abs(weight).max(-1, keepdims=True) / 7  # a coarse grid, to see a difference
    moments = inputs.transpose(0, 2, 1) @ inputs

    def loss(steps: Any) -> float:
        return float(np.square(inputs @ (steps * scales - weight).transpose(0, 2, 1)).sum())

    steps = gptq(weight, scales, moments)
    assert np.array_equal(steps, np.rint(steps)) and np.abs(steps).max() <= 127
    assert not steps[weight == 0].any()
    assert loss(steps) < 0.5 * loss(np.rint(weight / scales))


@pytest.mark.parametrize("per_channel", [True, False])
def test_rounding_by_results_helps_a_convolution(per_channel: bool) -> None:
    random = np.random.default_rng(6)
    smooth = np.hanning(7)  # neighbouring pixels alike: correlated patches
    given, test = samples(16, 12, 12), samples(16, 12, 12, seed=8)
    for sample in (*given, *test):
        for axis in (1, 2):
            sample["x"] = np.apply_along_axis(np.convolve, axis, sample["x"], smooth, "same").astype(np.float32)
        sample["x"] *= np.logspace(0, -2, 16, dtype=np.float32).reshape(-1, 1, 1)
    text = "m (float[N, 16, 12, 12] x) => (float[N, 24, 12, 12] y) { y = Conv<pads=[1, 1, 1, 1]>(x, w, b) }"
    before = module(text, {"w": random.standard_t(3, size=(24, 16, 3, 3)), "b": random.normal(size=24)})
    rounded, plain = before.clone(), before.clone()
    asked = context(given)
    units = find_units(rounded, regrid=True)[0]
    note = round_weights(rounded, units, asked.split(None), asked, per_channel=per_channel)
    assert note.message.startswith("rounded the weights of 1 layers")
    weight = next(found for found in plain.weights() if found.name == "w")
    nearest = quantize(weight.numpy(), (1, 2, 3) if per_channel else (0, 1, 2, 3), signed=True)
    weight.replace((nearest.values * nearest.scale).astype(np.float32))
    again = quantize(constant(rounded), (1, 2, 3) if per_channel else (0, 1, 2, 3), signed=True)
    assert np.allclose(again.scale, nearest.scale, rtol=1e-6)  # the grid is what it was
    assert np.allclose(again.values * again.scale, constant(rounded), atol=1e-6)
    assert error(before, rounded, test) < 0.7 * error(before, plain, test)


def constant(found: Module) -> np.ndarray[Any, Any]:
    """The convolution's weight."""
    return next(weight.numpy() for weight in found.weights() if weight.shape == (24, 16, 3, 3))


def test_bad_samples_are_refused_with_the_value() -> None:
    before, given = inverted_residual(), samples(8, 10, 10, count=2)
    given[1]["x"][0, 0, 0] = np.nan
    with pytest.raises(PassError, match="is NaN or infinite on calibration sample 1"):
        quantized(before, given, equalize=True)


def test_dead_channels_and_nothing_to_move() -> None:
    before = inverted_residual()
    weights = {name: value.const_value.numpy().copy() for name, value in before.graph.initializers.items()}  # type: ignore[union-attr]
    weights["expand0"][:5] = 0
    dead = from_proto(_replaced(before, weights))
    dead.infer_shapes()
    given = samples(8, 10, 10)
    assert np.isfinite(outputs(quantized(dead, given, equalize=True, rounding="gptq"), given)).all()
    text = "m (float[N, 4, 8] x) => (float[N, 4, 8] y) { y = MatMul(x, w) }"
    alone = module(text, {"w": np.random.default_rng(0).normal(size=(8, 8))})
    messages = [note.message for note in corrected(alone, samples(4, 8), equalize=True, smooth=True)[1]]
    assert len(messages) == 2 and all("no" in message for message in messages)


def _replaced(before: Module, weights: dict[str, Any]) -> onnx.ModelProto:
    from mopt.ir import to_proto

    proto = to_proto(before)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return proto
