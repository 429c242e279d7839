"""`convert.tensorrt`: each lowering computes what the quantised graph computes, in operators that TensorRT takes."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mopt.ir import Module, from_proto, provenance, verify
from mopt.passes.contract import PassError
from mopt.passes.convert.float16 import Float16
from mopt.passes.convert.tensorrt import TensorRT
from mopt.passes.convert.tensorrt_float8 import scaled
from mopt.passes.quantize.dynamic import Dynamic
from mopt.passes.quantize.weights import Weights
from mopt.plugin import default_registry
from mopt.runtime.contract import TargetError
from mopt.runtime.ort import OrtRunner
from mopt.runtime.trt.layers import read_layers
from mopt.runtime.trt.target import TrtTarget
from onnx import numpy_helper

RANDOM = np.random.default_rng(0)
needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (extra `tensorrt-rtx`)"
)
CONTEXT: Any = SimpleNamespace(seed=0, bindings={}, scratch=Path())


def module(text: str, weights: dict[str, Any], opset: int = 13) -> Module:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>{text}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items())
    loaded = from_proto(proto)
    provenance.stamp_source(loaded)
    return loaded


def lowered(before: Module) -> tuple[Module, list[str]]:
    result = TensorRT().run(before.clone(), CONTEXT)
    assert not verify(result.module)
    assert (result.module.inputs, result.module.outputs) == (before.inputs, before.outputs)
    return result.module, [node.op_type for node in result.module.nodes()]


def outputs(found: Module, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with OrtRunner(found, optimize=False) as runner:
        return next(iter(runner.run({"x": x}).values()))


def engine(found: Module, folder: Path) -> int:
    return TrtTarget(library="tensorrt_rtx", capabilities=("sm89",)).emit(found, folder).bytes


PAIR = (
    "m (float[1, 8, 12, 12] x) => (float[1, 16, 12, 12] y) {{ q = QuantizeLinear(x, s, z) r = DequantizeLinear(q, s, z)"
    " wr = DequantizeLinear<axis = 0>(w, ws) br = DequantizeLinear<axis = 0>(b, bs)"
    " {tail} }}"
)
CONV = "y = Conv<pads = [1, 1, 1, 1]>(r, wr, br)"


def quantised_conv(scale: float, zero: int, dtype: Any, tail: str = CONV, **more: Any) -> Module:
    weights = {
        "s": np.float32(scale), "z": np.array(zero, dtype), "w": RANDOM.integers(-127, 128, (16, 8, 3, 3), np.int8),
        "ws": RANDOM.uniform(0.005, 0.02, 16).astype(np.float32), "b": RANDOM.integers(-9999, 9999, 16, np.int32),
        "bs": np.full(16, 1e-4, np.float32), **more,
    }  # fmt: skip
    return module(PAIR.format(tail=tail), weights)


@pytest.mark.parametrize(("zero", "dtype"), [(128, np.uint8), (0, np.uint8), (40, np.uint8), (-100, np.int8)])
def test_asymmetric_grids_become_symmetric_within_a_step(zero: int, dtype: Any) -> None:
    before = quantised_conv(0.02, zero, dtype)
    after, operators = lowered(before)
    grids = [node for node in after.nodes() if node.op_type == "QuantizeLinear"]
    assert len(grids) == 1
    assert operators.count("DequantizeLinear") == 2  # of the activation and the weight: the bias is float
    low = 0.02 * ((0 if dtype is np.uint8 else -128) - zero)
    x = RANDOM.uniform(low, low + 255 * 0.02, (1, 8, 12, 12)).astype(np.float32)
    wanted, got = outputs(before, x), outputs(after, x)
    # A symmetric grid repeats bit for bit; others round by up to half of a step that is twice as wide.
    bound = 1e-4 if zero == 128 else 0.08
    assert np.sqrt(np.mean((wanted - got) ** 2)) < bound * np.std(wanted)


def test_the_cut_at_zero_that_a_quantiser_stood_for_is_kept() -> None:
    """onnxruntime's quantiser removes a Relu before an unsigned grid that starts at zero."""
    after, operators = lowered(quantised_conv(0.02, 0, np.uint8))
    assert "Relu" in operators
    x = -np.abs(RANDOM.normal(size=(1, 8, 12, 12))).astype(np.float32)
    bias = outputs(after, np.zeros_like(x))
    np.testing.assert_allclose(outputs(after, x), bias, atol=1e-5)


def test_bytes_read_on_another_grid_and_cut_on_the_way() -> None:
    """How `quantize.static` writes a hard swish: x / 6 + 1/2 is the same bytes, cut at the top."""
    tail = "c = Clip(q, , top) g = DequantizeLinear(c, gs, gz) p = Mul(r, g) y = Conv<pads = [1, 1, 1, 1]>(p, wr, br)"
    extra = {"top": np.uint8(120), "gs": np.float32(3 / 40 / 6), "gz": np.uint8(0)}
    before = quantised_conv(3 / 40, 40, np.uint8, tail, **extra)
    after, operators = lowered(before)
    assert "QuantizeLinear" not in operators, "the pair feeds no convolution"
    x = (RANDOM.normal(size=(1, 8, 12, 12)) * 4).astype(np.float32)
    wanted, got = outputs(before, x), outputs(after, x)
    assert np.sqrt(np.mean((wanted - got) ** 2)) < 0.02 * np.std(wanted)


def test_asymmetric_weights_move_or_are_written_out() -> None:
    text = "m (float[4, 8] x) => (float[4, 6] y) { wr = DequantizeLinear<axis = 1>(w, s, z) y = MatMul(x, wr) }"
    content = RANDOM.integers(60, 180, (8, 6)).astype(np.uint8)
    scale = RANDOM.uniform(0.01, 0.02, 6).astype(np.float32)
    x = RANDOM.normal(size=(4, 8)).astype(np.float32)
    for zero, kept in ((120, True), (0, False)):
        before = module(text, {"w": content, "s": scale, "z": np.full(6, zero, np.uint8)})
        after, operators = lowered(before)
        assert ("DequantizeLinear" in operators) is kept
        np.testing.assert_allclose(outputs(before, x), outputs(after, x), atol=1e-5)


FLOAT = {
    "w": (RANDOM.normal(size=(16, 8, 3, 3)) / 8).astype(np.float32),
    "b": RANDOM.normal(size=16).astype(np.float32),
    "v": (RANDOM.normal(size=(16, 64)) / 4).astype(np.float32),
}
NETWORK = (
    "m (float[1, 8, 12, 12] x) => (float[1, 64] y) { a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a)"
    " p = GlobalAveragePool(r) f = Flatten(p) y = MatMul(f, v) }"
)


@pytest.mark.parametrize("storage", ["uint8", "int8"])
def test_dynamic_quantisation_becomes_int8_weights(storage: Any) -> None:
    real = module(NETWORK, FLOAT)
    before = Dynamic(weights=storage, min_elements=1).run(real.clone(), CONTEXT).module
    after, operators = lowered(before)
    assert {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}.isdisjoint(operators)
    stored = [weight for weight in after.weights() if weight.dtype == "i8"]
    assert sum(weight.size for weight in stored) == FLOAT["w"].size + FLOAT["v"].size
    x = RANDOM.normal(size=(1, 8, 12, 12)).astype(np.float32)
    error = [np.abs(outputs(found, x) - outputs(real, x)).max() for found in (before, after)]
    assert error[1] < 2 * error[0], "nearer to the float model, or about as near"


def test_an_embedding_of_int8_rows_and_an_lstm() -> None:
    text = "m (int64[5, 1] x) => (float[5, 1, 1, 12] y) { e = Gather(table, x) y = LSTM<hidden_size = 12>(e, w, r, b) }"
    weights = {
        "table": RANDOM.normal(size=(40, 30)).astype(np.float32),
        "w": (RANDOM.normal(size=(1, 48, 30)) / 6).astype(np.float32),
        "r": (RANDOM.normal(size=(1, 48, 12)) / 4).astype(np.float32),
        "b": RANDOM.normal(size=(1, 96)).astype(np.float32),
    }
    before = Dynamic(min_elements=1).run(module(text, weights), CONTEXT).module
    after, operators = lowered(before)
    assert sorted(operators) == ["DequantizeLinear", "Gather", "LSTM"]
    x = RANDOM.integers(0, 40, (5, 1))
    assert np.abs(outputs(before, x) - outputs(after, x)).max() < 0.02


@pytest.mark.parametrize(("symmetric", "inner", "kept"), [(True, 64, True), (False, 64, False), (True, 72, False)])
def test_4_bit_products_keep_their_bits_where_the_blocks_fit(symmetric: bool, inner: int, kept: bool) -> None:
    weight = RANDOM.normal(size=(inner, 48)).astype(np.float32)
    real = module(f"m (float[3, {inner}] x) => (float[3, 48] y) {{ y = MatMul(x, w) }}", {"w": weight})
    before = Weights(bits=4, block=32, symmetric=symmetric, min_elements=1).run(real, CONTEXT).module
    assert any(node.op_type == "MatMulNBits" for node in before.nodes())
    after, operators = lowered(before)
    assert ("DequantizeLinear" in operators) is kept
    assert "MatMulNBits" not in operators
    x = RANDOM.normal(size=(3, inner)).astype(np.float32)
    wanted, got = outputs(before, x), outputs(after, x)
    # onnxruntime may round the activations of its own operator to 8 bits.
    assert np.sqrt(np.mean((wanted - got) ** 2)) < 0.02 * np.std(wanted)


@needs_builder
def test_4_bit_weights_are_4_bit_in_engines(tmp_path: Path) -> None:
    weight = RANDOM.normal(size=(1024, 2048)).astype(np.float32)
    real = module("m (float[3, 1024] x) => (float[3, 2048] y) { y = MatMul(x, w) }", {"w": weight})
    sizes = {}
    small = Weights(bits=4, block=64, symmetric=True).run(real.clone(), CONTEXT).module
    for name, before in (("f32", real), ("i4", small)):
        (tmp_path / name).mkdir()
        sizes[name] = engine(lowered(before)[0], tmp_path / name)
    assert sizes["f32"] > 4 * weight.size
    assert sizes["i4"] < 0.3 * sizes["f32"], "half a byte each, a scale for 64, and kernels"


def test_a_float_graph_and_a_symmetric_one_stay_what_they_are() -> None:
    assert not TensorRT().run(module(NETWORK, FLOAT), CONTEXT).modified
    symmetric = quantised_conv(0.02, 0, np.int8)
    operators = lowered(symmetric)[1]
    assert operators.count("QuantizeLinear") == 1


def test_what_has_no_other_form_is_refused_with_node_layer_and_step() -> None:
    text = "m (float[2, 4] x) => (float[2, 4] y) { q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }"
    wide = module(text, {"s": np.float32(0.1), "z": np.uint16(3)}, opset=21)
    node = next(iter(wide.graph))
    node.name = "wide"
    provenance.inherit([node], [node], "quantize.static/x")
    with pytest.raises(PassError, match=r"`QuantizeLinear` of layer .*made by `quantize.static`.*uint16") as caught:
        TensorRT().run(wide, CONTEXT)
    assert caught.value.node == "wide"
    assert "placement=tensorrt" in (caught.value.help or "")


def test_float16_scales_leave_no_cast_between_a_quantiser_and_its_convolution() -> None:
    after, _ = lowered(quantised_conv(0.02, 128, np.uint8))
    tiny = next(value for value in after.graph.initializers.values() if value.name == "ws")
    scales = np.array(tiny.const_value.numpy())
    scales[3] = 1e-12  # a dead channel: float16 would make it zero, which TensorRT refuses
    tiny.const_value = ir.Tensor(scales, name="ws")
    half = Float16(scales=True).run(after, CONTEXT).module
    assert not verify(half)
    for node in half.nodes():
        if node.op_type == "DequantizeLinear":
            assert node.outputs[0].dtype == ir.DataType.FLOAT16
            assert (node.inputs[1].const_value.numpy() > 0).all()
            assert {usage.node.op_type for usage in node.outputs[0].uses()} == {"Conv"}
    x = RANDOM.normal(size=(1, 8, 12, 12)).astype(np.float32)
    wanted, got = outputs(after, x), outputs(half, x)
    assert np.abs(wanted - got).max() < 0.02 * np.ptp(wanted)


@needs_builder
@pytest.mark.parametrize("zero", [0, 128])
def test_lowered_graphs_become_engines(zero: int, tmp_path: Path) -> None:
    before = quantised_conv(0.02, zero, np.uint8)
    with pytest.raises(Exception, match="can't take the model"):
        engine(before, tmp_path)
    assert engine(lowered(before)[0], tmp_path) > 10_000


DEPTHWISE = (
    "m (float[1, 8, 12, 12] x) => (float[1, 8, 12, 12] y) { q = QuantizeLinear(x, s, z)"
    " r = DequantizeLinear(q, s, z) wr = DequantizeLinear<axis = 0>(w, ws)"
    " y = Conv<group = 8, pads = [1, 1, 1, 1]>(r, wr) }"
)


def for_rtx(before: Module) -> tuple[Module, list[str]]:
    after = TensorRT(kernels="tensorrt_rtx").run(before.clone(), CONTEXT)
    assert not verify(after.module)
    return after.module, [note.message for note in after.notes]


def test_depthwise_convolutions_are_float_for_rtx() -> None:
    """Its kernels pad each group to four channels; the bytes of the weights stay what they were."""
    weights = {
        "s": np.float32(0.02), "z": np.int8(0), "w": RANDOM.integers(-127, 128, (8, 1, 3, 3), np.int8),
        "ws": RANDOM.uniform(0.005, 0.02, 8).astype(np.float32),
    }  # fmt: skip
    before = module(DEPTHWISE, weights)
    after, notes = for_rtx(before)
    assert [node.op_type for node in after.nodes()] == ["Conv"]
    assert "pads them to four" in notes[0]
    x = (RANDOM.integers(-127, 128, (1, 8, 12, 12)) * np.float32(0.02)).astype(np.float32)  # on the grid
    np.testing.assert_allclose(outputs(after, x), outputs(before, x), atol=1e-4)
    assert [node.op_type for node in lowered(before)[0].nodes()].count("QuantizeLinear") == 1, "TensorRT has kernels"


@pytest.mark.parametrize("largest", [0.02, 40.0])
def test_one_weight_scale_and_a_product_give_the_same_numbers(largest: float) -> None:
    """Also where the sum of products with the largest scale would pass what float16 holds."""
    scales = np.linspace(0.005, largest, 16).astype(np.float32)
    before, _ = lowered(quantised_conv(0.02, 0, np.int8, ws=scales))
    after, notes = for_rtx(before)
    operators = [node.op_type for node in after.nodes()]
    assert (operators.count("Mul"), operators.count("Add")) == (1, 1) and "16 bits" in notes[-1]
    held = next(node for node in after.nodes() if node.op_type == "Conv").inputs[1].producer()
    assert held.inputs[1].const_value.numpy().size == 1 and "axis" not in held.attributes
    x = RANDOM.uniform(-2.5, 2.5, (1, 8, 12, 12)).astype(np.float32)
    want = outputs(before, x)
    np.testing.assert_allclose(outputs(after, x), want, atol=1e-5 * np.abs(want).max())
    half = Float16(scales=True).run(after, CONTEXT).module
    assert np.isfinite(outputs(half, x)[np.abs(want) < 60_000]).all()


@needs_builder
def test_convolutions_write_16_bits_on_rtx(tmp_path: Path) -> None:
    found = {}
    for kernels in ("tensorrt", "tensorrt_rtx"):
        before, _ = lowered(quantised_conv(0.02, 0, np.int8))
        half = TensorRT(kernels=kernels).run(before, CONTEXT).module
        half = Float16(scales=True).run(half, CONTEXT).module
        (tmp_path / kernels).mkdir()
        engine(half, tmp_path / kernels)
        layers = read_layers(tmp_path / kernels / "model.engine")["sm89"]
        found[kernels] = next(layer.precision for layer in layers if layer.kind == "correlation")
    assert found == {"tensorrt": "i8→f32", "tensorrt_rtx": "i8→f16"}


def test_8_bit_floats_round_as_e4m3_does() -> None:
    """Three bits of mantissa: within a sixteenth of each value; the largest of each channel is exact."""
    array = RANDOM.standard_normal((4, 3, 5)).astype(np.float32) * np.array([1, 10, 1e-3, 0], np.float32).reshape(
        4, 1, 1
    )
    floats, scale = scaled(array, 0)
    back = floats.astype(np.float32) * scale.reshape(4, 1, 1)
    normal = np.abs(array) > 2**-6 * scale.reshape(4, 1, 1)
    assert (np.abs(back - array)[normal] <= np.abs(array)[normal] / 16 * 1.0001).all()
    peaks = np.abs(array).reshape(4, -1).argmax(1)
    np.testing.assert_allclose(
        np.take_along_axis(back.reshape(4, -1), peaks[:, None], 1),
        np.take_along_axis(array.reshape(4, -1), peaks[:, None], 1), rtol=1e-6,
    )  # fmt: skip
    assert scale[3] == 1 and not back[3].any()
    assert scaled(array)[1].shape == ()


@pytest.mark.parametrize("kernels", ["tensorrt", "tensorrt_rtx"])
def test_grids_become_8_bit_floats(kernels: Any) -> None:
    before, _ = lowered(quantised_conv(0.02, 0, np.int8))
    after = TensorRT(kernels=kernels, grids="e4m3").run(before.clone(), CONTEXT).module
    assert not verify(after) and after.opset >= 19
    stored = [node.inputs[0].dtype for node in after.nodes() if node.op_type == "DequantizeLinear"]
    assert stored == [ir.DataType.FLOAT8E4M3FN] * 2
    x = RANDOM.uniform(-2.5, 2.5, (1, 8, 12, 12)).astype(np.float32)
    want, got = outputs(before, x), outputs(after, x)
    error = np.linalg.norm(got - want) / np.linalg.norm(want)
    assert 0.01 < error < 0.06, "two roundings of 2.6 % each on average"


@needs_builder
def test_8_bit_floats_run_in_engines_from_sm89_on(tmp_path: Path) -> None:
    before, _ = lowered(quantised_conv(0.02, 0, np.int8))
    target = TrtTarget(library="tensorrt_rtx", precision="fp16", grids="e4m3", capabilities=("sm89", "sm120"))
    for name, options in target.prepare():
        before = default_registry().get("passes", name)(**options).run(before, CONTEXT).module
    target.emit(before, tmp_path)
    layers = read_layers(tmp_path / "model.engine")["sm120"]
    assert "f8→f16" in {layer.precision for layer in layers if layer.kind == "correlation"}
    with pytest.raises(TargetError, match=r"runs on GPUs from sm89 on, and `capabilities` names sm80"):
        dataclasses.replace(target, capabilities=("sm80", "sm89")).emit(before, tmp_path)
