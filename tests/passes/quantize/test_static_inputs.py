"""`quantize.static` on what models hold: every opset, dynamic shapes, inner graphs, functions, strange values."""

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
from mopt.runtime.data.splits import Samples
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)
CHAIN = (
    "m (float[N, 8, H, W] x) => (float[N, 8, H, W] y)"
    " { a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a) y = Conv(r, v) }"
)
WEIGHTS = {
    "w": RANDOM.normal(size=(16, 8, 3, 3)) / 8, "b": RANDOM.normal(size=16), "v": RANDOM.normal(size=(8, 16, 1, 1)),
}  # fmt: skip


class Bar:
    def advance(self, steps: int = 1) -> None: ...
    def describe(self, text: str) -> None: ...


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Bar]:
    yield Bar()


def module(text: str, weights: dict[str, Any], opset: int = 13, imports: str = "") -> Module:
    version = 10 if opset > 20 else 8
    proto = onnx.parser.parse_model(f'<ir_version: {version}, opset_import: ["": {opset}{imports}]>{text}')
    found = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in found.items())
    loaded = from_proto(proto)
    provenance.stamp_source(loaded)
    return loaded


def images(*sizes: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"x": RANDOM.normal(size=(8, *size)).astype(np.float32)} for size in sizes or [(12, 12)] * 4]


def quantized(before: Module, given: list[Any], **options: Any) -> tuple[Module, list[Any]]:
    split = Samples(given, len(given), "calib")
    context: Any = SimpleNamespace(seed=0, bindings={}, scratch=Path(), progress=bar, split=lambda _: split)
    result = Static(data=DataRef("d", "calib"), **options).run(before.clone(), context)
    assert not verify(result.module)
    assert (result.module.inputs, result.module.outputs) == (before.inputs, before.outputs)
    return result.module, list(result.notes)


def error(before: Module, after: Module, given: list[Any]) -> float:
    worst = 0.0
    with OrtRunner(before) as one, OrtRunner(after) as two:
        for sample in given:
            feeds = {name: array[None] for name, array in sample.items()}
            for wanted, got in zip(one.run(feeds).values(), two.run(feeds).values(), strict=True):
                worst = max(worst, float(np.mean((wanted - got) ** 2) / np.var(wanted)))
    return worst


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17, 19, 21, 22, 23])
def test_every_opset(opset: int) -> None:
    before, given = module(CHAIN, WEIGHTS, opset), images()
    after, notes = quantized(before, given)
    assert after.opset == max(opset, 13)
    assert any("opset raised" in note.message for note in notes) == (opset < 13)
    assert [node.op_type for node in after.nodes()].count("QuantizeLinear") == 3
    assert 0 < error(before, after, given) < 2e-3


def test_samples_and_inputs_of_any_size() -> None:
    before, given = module(CHAIN, WEIGHTS), images((12, 12), (5, 31), (20, 8))
    after, _ = quantized(before, given)
    assert after.dynamic_dims() == before.dynamic_dims()
    assert error(before, after, images((3, 3), (40, 17))) < 4e-3


def test_inner_graphs_are_left_alone_and_told() -> None:
    then, other = (
        helper.make_graph(
            [helper.make_node("Conv", ["a", "v"], [f"{name}_y"], name=f"{name}_conv")]
            if name == "then"
            else [helper.make_node("Identity", ["x"], [f"{name}_y"], name=f"{name}_identity")],
            name, [], [helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, None)],
        )
        for name in ("then", "other")
    )  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["a"], name="outer", pads=[1, 1, 1, 1]),
        helper.make_node("ReduceMax", ["x"], ["top"], name="top", keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["positive"], name="greater"),
        helper.make_node("If", ["positive"], ["y"], name="branch", then_branch=then, else_branch=other),
    ]
    arrays = {**WEIGHTS, "zero": np.zeros(())}
    graph = helper.make_graph(
        nodes, "m", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8, "H", "W"])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in arrays.items()],
    )  # fmt: skip
    before = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8))
    given = images()
    after, notes = quantized(before, given)
    assert any("inner graphs" in note.message and "then_conv" in note.nodes for note in notes)
    (inner,) = [node for node in after.nodes() if node.name == "then_conv"]
    assert inner.inputs[1] is not None and inner.inputs[1].name == "v"
    assert error(before, after, given) < 2e-3


def test_functions_and_other_domains_are_left_alone_and_told() -> None:
    text = (
        "m (float[N, 8, 12, 12] x) => (float[N, 8, 12, 12] y)"
        " { a = Conv<pads = [1, 1, 1, 1]>(x, w, b) c = own.twice(a, v) y = com.microsoft.Gelu(c) }"
        ' <domain: "own", opset_import: ["": 13]> twice (p, q) => (s) { r = Conv(p, q) s = Add(r, r) }'
    )
    before, given = module(text, WEIGHTS, imports=', "own": 1, "com.microsoft": 1'), images()
    after, notes = quantized(before, given)
    operators = [node.op_type for node in after.nodes()]
    assert "twice" in operators and "Gelu" in operators and "DequantizeLinear" in operators
    told = [note.message for note in notes]
    assert any("of other domains" in message for message in told)
    assert any("inner graphs and functions" in message for message in told)
    assert error(before, after, given) < 2e-3


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_constant_activations(value: float) -> None:
    given = [{"x": np.full((8, 12, 12), value, np.float32)}] * 2
    before = module(CHAIN, {**WEIGHTS, "w": WEIGHTS["w"] * 0, "b": np.full(16, 1.5)})
    for method in ("minmax", "percentile", "entropy", "mse"):
        after, _ = quantized(before, given, method=method)
        with OrtRunner(before) as one, OrtRunner(after) as two:
            feeds = {"x": given[0]["x"][None]}
            assert np.allclose(one.run(feeds)["y"], two.run(feeds)["y"], rtol=0.03, atol=0.03)


def test_a_group_of_one_channel_and_one_sample() -> None:
    text = "m (float[N, 1, H, W] x) => (float[N, 1, H, W] y) { a = Conv(x, w) y = Conv<group = 1>(a, v) }"
    before = module(text, {"w": np.full((1, 1, 1, 1), 0.5), "v": np.full((1, 1, 1, 1), -3.0)})
    given = [{"x": RANDOM.normal(size=(1, 9, 9)).astype(np.float32)}]
    after, _ = quantized(before, given)
    assert error(before, after, given) < 1e-3


def test_a_convolution_kernel_that_two_layers_share_is_stored_once() -> None:
    text = (
        "m (float[N, 8, H, W] x) => (float[N, 8, H, W] y) { a = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(a)"
        " y = Conv<pads = [1, 1, 1, 1]>(r, w) }"
    )
    before, given = module(text, {"w": RANDOM.normal(size=(8, 8, 3, 3)) / 8}), images()
    after, _ = quantized(before, given)
    assert sum(weight.size == 576 for weight in after.weights()) == 1
    assert error(before, after, given) < 2e-3


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["w", "v", "b"])
def test_nan_and_infinite_weights_are_refused_with_the_node(broken: float, where: str) -> None:
    content = np.array(WEIGHTS[where])
    content.reshape(-1)[3] = broken
    before = module(CHAIN, {**WEIGHTS, where: content})
    with pytest.raises(PassError) as caught:
        quantized(before, images())
    assert caught.value.node in {node.name for node in before.nodes()}


def test_softmax_and_normalisations_stay_float_and_are_told() -> None:
    text = (
        "m (float[N, 5, 40] x) => (float[N, 5, 40] y) { a = MatMul(x, w)"
        " n = LayerNormalization(a, s, t) y = Softmax(n) }"
    )
    weights = {"w": RANDOM.normal(size=(40, 40)) / 6, "s": np.ones(40), "t": np.zeros(40)}
    before = module(text, weights, opset=17)
    given = [{"x": RANDOM.normal(size=(5, 40)).astype(np.float32)} for _ in range(4)]
    after, notes = quantized(before, given)
    told = [note.message for note in notes if "ratios of its elements" in note.message]
    assert len(told) == 2 and {"Softmax", "LayerNormalization"} <= {node.op_type for node in after.nodes()}
    assert error(before, after, given) < 2e-2
