"""`quantize.static`: grids, calibration, placement, hard swishes on bytes, bad input, a real recogniser."""

from __future__ import annotations

import contextlib
import importlib.util
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, load, print_module, provenance, verify
from mopt.passes.contract import PassError
from mopt.passes.convert.opset import Opset
from mopt.passes.quantize.calibration import calibrate
from mopt.passes.quantize.calibration_histogram import BINS, Histogram
from mopt.passes.quantize.calibration_ranges import choose
from mopt.passes.quantize.static import Static
from mopt.passes.quantize.static_bias import SystematicMeans
from mopt.passes.simplify.rules import Rules
from mopt.runtime.data.splits import Samples
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, Location, Ratio
from onnx import numpy_helper

DATA = DataRef("d", "calib")
RANDOM = np.random.default_rng(0)


class Bar:
    def advance(self, steps: int = 1) -> None: ...
    def describe(self, text: str) -> None: ...


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Bar]:
    yield Bar()


def context(samples: list[Any], folder: Path = Path()) -> Any:
    split = Samples(samples, len(samples), "calib")
    return SimpleNamespace(seed=0, bindings={}, scratch=folder, progress=bar, split=lambda _: split)


def module(text: str, weights: dict[str, Any], opset: int = 13) -> Module:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>{text}')
    found = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in found.items())
    onnx.checker.check_model(proto)
    loaded = from_proto(proto)
    provenance.stamp_source(loaded)
    return loaded


def samples(*shape: int, count: int = 8, scale: float = 1.0) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [{"x": (scale * random.normal(size=shape)).astype(np.float32)} for _ in range(count)]


def quantized(before: Module, given: list[Any], **options: Any) -> tuple[Module, list[Any]]:
    result = Static(data=DATA, **options).run(before.clone(), context(given))
    assert not verify(result.module)
    assert (result.module.inputs, result.module.outputs) == (before.inputs, before.outputs)
    return result.module, list(result.notes)


def operators(found: Module) -> list[str]:
    return [node.op_type for node in found.nodes()]


def fused(found: Module, tmp_path: Path) -> list[str]:
    """The operators that onnxruntime runs in the end."""
    import onnxruntime
    from mopt.ir import to_proto

    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath, settings.log_severity_level = str(tmp_path / "o.onnx"), 4
    content = to_proto(found).SerializeToString()
    onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "o.onnx").graph.node]


def error(before: Module, after: Module, given: list[Any]) -> float:
    """The worst relative squared error over samples."""
    worst = 0.0
    with OrtRunner(before) as one, OrtRunner(after) as two:
        for sample in given:
            feeds = {"x": sample["x"][None]}
            for wanted, got in zip(one.run(feeds).values(), two.run(feeds).values(), strict=True):
                worst = max(worst, float(np.mean((wanted - got) ** 2) / np.var(wanted)))
    return worst


CONV = {
    "w": RANDOM.normal(size=(16, 8, 3, 3)) / 8,
    "b": RANDOM.normal(size=16),
    "v": RANDOM.normal(size=(8, 16, 1, 1)) / 4,
}
CHAIN = (
    "m (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y) {{ a = Conv<pads = [1, 1, 1, 1]>(x, w, b) {middle}"
    " y = Conv(m, v) }}"
)
HARD_SWISH = "h = HardSigmoid<alpha = 0.16666667, beta = 0.5>(a) m = Mul(a, h)"


@pytest.mark.parametrize(
    ("middle", "runs"),
    [
        ("m = Relu(a)", ["QLinearConv", "QLinearConv"]),
        (HARD_SWISH, ["QLinearConv", "QLinearMul", "QLinearConv"]),
        (HARD_SWISH.replace("m =", "s =") + " m = Add(s, shift)", ["QLinearConv", "QLinearMul", "QLinearConv"]),
        (
            "r = Relu(a) p = GlobalAveragePool(r) g = Sigmoid(p) m = Mul(r, g)",
            ["QLinearConv", "QLinearMul", "QLinearConv"],
        ),
    ],
)
def test_what_stands_between_convolutions_runs_on_bytes(middle: str, runs: list[str], tmp_path: Path) -> None:
    shift = {"shift": [-0.7]} if "shift" in middle else {}
    before, given = module(CHAIN.format(middle=middle), {**CONV, **shift}), samples(8, 12, 12)
    after, _ = quantized(before, given)
    found = fused(after, tmp_path)
    assert [name for name in found if name in ("QLinearConv", "QLinearMul", "Conv", "Mul", "Relu", "Add")] == runs
    assert found.count("QuantizeLinear") == 1 or "Sigmoid" in middle
    assert 0 < error(before, after, given) < 2e-3


@pytest.mark.parametrize("symmetric", [False, True])
def test_signed_bytes_leave_hard_swishes_in_float(symmetric: bool, tmp_path: Path) -> None:
    before, given = module(CHAIN.format(middle=HARD_SWISH), CONV), samples(8, 12, 12)
    after, _ = quantized(before, given, activations="int8", symmetric=symmetric)
    assert "HardSigmoid" in fused(after, tmp_path)
    zeros = [w.numpy() for w in after.weights() if w.dtype == "i8" and w.size == 1]
    assert not symmetric or not any(zero.any() for zero in zeros)
    assert error(before, after, given) < 2e-3


def test_a_hard_swish_far_from_zero_keeps_its_knees() -> None:
    weights = {**CONV, "w": CONV["w"] * 6}
    before, given = module(CHAIN.format(middle=HARD_SWISH), weights), samples(8, 12, 12)
    after, _ = quantized(before, given, method="minmax")
    assert "Clip" in operators(after)
    assert error(before, after, given) < 1e-3


def test_per_channel_beats_per_tensor() -> None:
    uneven = CONV["w"] * np.logspace(-2, 1, 16).reshape(-1, 1, 1, 1)
    before = module(
        CHAIN.format(middle="m = Relu(a)"),
        {**CONV, "w": uneven, "v": CONV["v"] / np.logspace(-2, 1, 16).reshape(1, -1, 1, 1)},
    )
    given = samples(8, 12, 12)
    fine = quantized(before, given, per_channel=True, method="minmax")[0]
    coarse = quantized(before, given, per_channel=False, method="minmax")[0]
    assert error(before, fine, given) < 0.8 * error(before, coarse, given)


def test_bias_correction_takes_the_mean_error_off() -> None:
    random = np.random.default_rng(2)
    weight = random.normal(size=(16, 64, 1, 1)) * np.array([8.0] + [0.05] * 63).reshape(1, -1, 1, 1)
    before = module("m (float[N, 64, 6, 6] x) => (float[N, 16, 6, 6] y) { y = Conv(x, w) }", {"w": weight})
    given = [{"x": np.abs(sample["x"])} for sample in samples(64, 6, 6)]

    def mean_error(**options: Any) -> float:
        after = quantized(before, given, **options)[0]
        with OrtRunner(before) as one, OrtRunner(after) as two:
            batch = {"x": np.stack([sample["x"] for sample in given])}
            return float(np.abs((one.run(batch)["y"] - two.run(batch)["y"]).mean((0, 2, 3))).mean())

    assert mean_error() < 0.7 * mean_error(bias_correction=False)


def test_a_constant_channel_between_two_steps_is_no_error() -> None:
    """Rounding adds half a step to every element of such a channel: the next bias takes it off."""
    random = np.random.default_rng(2)
    before = module("m (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y) { y = Conv(x, w) }", {"w": np.ones((4, 3, 3, 3))})
    given = [{"x": random.uniform(0, 255, (3, 6, 6)).astype(np.float32)} for _ in range(16)]
    for sample in given:
        sample["x"][0], sample["x"][1].flat[:2] = 20.45, (0, 255)

    def mean_error(**options: Any) -> float:
        after = quantized(before, given, method="minmax", **options)[0]
        batch = {"x": np.stack([sample["x"] for sample in given])}
        with OrtRunner(before) as one, OrtRunner(after) as two:
            return float(np.abs((one.run(batch)["y"] - two.run(batch)["y"]).mean()))

    assert mean_error() > 3
    assert mean_error(activation_correction=True) < 1
    assert mean_error(activation_correction=True, bias_correction=False) < 1


def test_chance_is_no_bias() -> None:
    random = np.random.default_rng(0)
    found = SystematicMeans(1)
    for _ in range(64):
        noise = random.normal(size=(1, 40, 50)).astype(np.float32)
        noise[:, 0] += 0.5
        found.add(noise)
    means = found.mean()
    assert abs(means[0] - 0.5) < 0.1
    assert np.abs(means[1:]).mean() < 0.6 * np.sqrt(2 / np.pi / (64 * 50))
    assert (means[1:] == 0).mean() > 0.4


def test_products_keep_float_results(tmp_path: Path) -> None:
    text = "m (float[N, 5, 40] x) => (float[N, 5, 12] y) { a = MatMul(x, w) c = Add(a, b) y = Softmax(c) }"
    before = module(text, {"w": RANDOM.normal(size=(40, 12)), "b": RANDOM.normal(size=12)})
    after, _ = quantized(before, samples(5, 40))
    assert "MatMulIntegerToFloat" in fused(after, tmp_path)
    gemm = "m (float[N, 40] x) => (float[N, 6] y) { a = Gemm<transB = 1>(x, w, b) r = Relu(a) y = Gemm(r, v, c) }"
    weights = {
        "w": RANDOM.normal(size=(12, 40)),
        "b": RANDOM.normal(size=12),
        "v": RANDOM.normal(size=(12, 6)),
        "c": np.ones(6),
    }
    before, given = module(gemm, weights), samples(40)
    after, _ = quantized(before, given)
    assert fused(after, tmp_path) == ["QuantizeLinear", "QGemm", "QGemm"]
    assert error(before, after, given) < 2e-3


def test_keep_and_budget_leave_nodes_in_float_and_say_so() -> None:
    before, given = module(CHAIN.format(middle="m = Relu(a)"), CONV), samples(8, 12, 12)
    names = [node.name for node in before.nodes() if node.op_type == "Conv"]
    after, notes = quantized(before, given, keep=(names[0],))
    assert operators(after).count("QuantizeLinear") == 2  # around the second convolution
    assert any("by `keep`" in note.message and note.nodes == (names[0],) for note in notes)
    _, notes = quantized(before, given, budget=Ratio(0.2))
    assert [note.nodes for note in notes if "as sensitive" in note.message] == [(names[1],)]
    with pytest.raises(PassError, match="matches no layer"):
        quantized(before, given, keep=("nothing*",))


def test_low_opset_is_raised() -> None:
    before = module(CHAIN.format(middle="m = Relu(a)"), CONV, opset=11)
    after, notes = quantized(before, samples(8, 12, 12))
    assert after.opset == 13
    assert any("opset raised from 11" in note.message for note in notes)


def test_shared_weights_are_stored_once() -> None:
    text = "m (float[N, 40] x) => (float[N, 40] y) { a = MatMul(x, w) r = Relu(a) y = MatMul(r, w) }"
    before, given = module(text, {"w": RANDOM.normal(size=(40, 40)) / 6}), samples(40)
    after, _ = quantized(before, given)
    assert sum(weight.size == 1600 for weight in after.weights()) == 1
    assert error(before, after, given) < 2e-3


def test_bad_input_is_refused_with_the_place() -> None:
    before, given = module(CHAIN.format(middle="m = Relu(a)"), CONV), samples(8, 12, 12)
    names = [node.name for node in before.nodes()]
    with pytest.raises(PassError, match="quantised already"):
        quantized(quantized(before, given)[0], given)
    with pytest.raises(PassError, match="no samples"):
        quantized(before, [])
    broken = [dict(given[0]), {"x": given[1]["x"].copy()}]
    broken[1]["x"][0, 0, 0] = np.inf
    with pytest.raises(PassError, match="input `x` holds infinite values on calibration sample 1"):
        quantized(before, broken)
    overflow = module(CHAIN.format(middle="z = Div(a, zero) m = Relu(z)"), {**CONV, "zero": [0.0]})
    with pytest.raises(PassError, match=r"\(Relu\) gives infinite|\(Div\) gives") as caught:
        quantized(overflow, given)
    assert caught.value.node
    with pytest.raises(PassError, match="NaN") as caught:
        quantized(module(CHAIN.format(middle="m = Relu(a)"), {**CONV, "b": np.full(16, np.nan)}), [given[0]])
    assert caught.value.node in names


def test_constant_and_dead_channels_and_one_sample() -> None:
    weight = CONV["w"].copy()
    weight[3:5] = 0
    before = module(CHAIN.format(middle="m = Relu(a)"), {**CONV, "w": weight, "v": CONV["v"] * 0})
    after, _ = quantized(before, samples(8, 12, 12, count=1))
    with OrtRunner(after) as runner:
        assert not runner.run({"x": np.ones((1, 8, 12, 12), np.float32)})["y"].any()


def test_a_histogram_forgets_nothing_while_it_widens() -> None:
    random = np.random.default_rng(3)
    parts = [(random.normal(size=5000) * scale).astype(np.float32) for scale in (0.1, 3, 0.01, 40)]
    whole = Histogram()
    for part in parts:
        whole.add(part)
    centres, counts = whole.table()
    everything = np.concatenate(parts)
    assert counts.sum() == everything.size
    assert (whole.low, whole.high) == (everything.min(), everything.max())
    expected = np.histogram(everything, bins=(np.arange(BINS + 1) - BINS // 2) * whole.width)[0]
    assert np.abs(expected[expected > 0].sum() - counts.sum()) <= 1
    assert np.abs(np.dot(centres, counts) / counts.sum() - everything.mean()) < whole.width


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_ranges(method: Any) -> None:
    random = np.random.default_rng(4)
    histogram = Histogram()
    values = random.normal(size=200_000).astype(np.float32)
    histogram.add(np.append(values, np.float32(12)))
    low, high = choose(histogram, method, percentile=99.9, levels=255, symmetric=False)
    assert (low, high) == (values.min(), 12) if method == "minmax" else (-5 < low < -2.5 and 2.5 < high < 12)
    low, high = choose(histogram, method, percentile=99.9, levels=255, symmetric=True)
    assert low == -high


def test_memory_does_not_depend_on_the_number_of_samples() -> None:
    before = module(CHAIN.format(middle="m = Relu(a)"), CONV)

    def peak(count: int) -> int:
        shape, random = (8, 12, 12), np.random.default_rng(0)
        split = Samples([{"x": random.normal(size=shape).astype(np.float32)}] * count, count, "calib")
        tracemalloc.start()
        calibrate(before, {"x": 1, "a": 1, "m": 1}, split, context([]), batch=1, bins=True)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(4)
    assert peak(512) < peak(32) + 2**18  # one more sample kept would be 23 KiB, 480 of them 11 MiB


def test_a_real_recogniser(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    file = Path(__file__).parents[3] / "recipes" / "ocr" / "data.py"
    spec = importlib.util.spec_from_file_location("ocr_data", file)
    assert spec and spec.loader
    data: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(data)
    lines = data.lines(0, count=6)
    before = load(Location("pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx").resolve())
    before = Opset(to=13).run(Rules().run(before, context([])).module, context([])).module  # once, not in each run
    given = [{"x": sample["x"]} for sample in lines["calib"][:6]]
    (after, notes), (again, _) = (quantized(before, given) for _ in range(2))
    assert print_module(after) == print_module(again)
    contents = [[(w.name, w.numpy().tobytes()) for w in found.weights()] for found in (after, again)]
    assert contents[0] == contents[1]
    assert notes[0].message.startswith("quantised")
    assert sum(weight.nbytes for weight in after.weights()) < 2.9 * 2**20
    found = fused(after, tmp_path)
    assert found.count("QLinearConv") >= 32 and found.count("QLinearConv") + found.count("Conv") == 38
    with OrtRunner(before) as one, OrtRunner(after) as two:
        same = total = 0
        for sample in lines["test"]:
            feeds = {"x": sample["x"][None]}
            wanted, got = one.run(feeds), two.run(feeds)
            pairs = zip(wanted.values(), got.values(), strict=True)
            hits = [np.argmax(a, -1) == np.argmax(b, -1) for a, b in pairs]
            same, total = same + sum(int(hit.sum()) for hit in hits), total + sum(hit.size for hit in hits)
    assert same / total > 0.95
