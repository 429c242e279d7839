"""`cluster.kmeans` on what models and samples can be: what can't be clustered is left alone or refused, and said so."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from mopt.analysis.codebook import codebooks
from mopt.ir import Module, from_proto, verify
from mopt.passes.cluster.kmeans import KMeans
from mopt.passes.contract import PassError
from mopt.runtime.data.splits import Samples
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef
from onnx import numpy_helper

DATA = DataRef("d", "calib")
SIGNATURE = "(float[A,B,8] x) => (float[A,B,8] y)"
CHAIN = "h = MatMul(x, up) r = Relu(h) y = MatMul(r, down)"
SHAPES = {"up": (8, 256), "down": (256, 8)}
WAYS: dict[str, dict[str, Any]] = {"whole": {}, "channels": {"channels": 64}, "data": {"channels": 64, "data": DATA}}


def drawn(**shapes: tuple[int, ...]) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def module_of(
    body: str, weights: dict[str, np.ndarray[Any, Any]], opset: int = 17, signature: str = SIGNATURE, rest: str = ""
) -> Module:
    text = f'<ir_version: 9, opset_import: ["": {opset}, "acme": 1]> g {signature} {{ {body} }} {rest}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return from_proto(proto)


def samples(count: int = 4) -> list[dict[str, Any]]:
    return [{"x": array} for array in np.random.default_rng(1).normal(size=(count, 5, 8)).astype(np.float32)]


def context(items: list[dict[str, Any]]) -> Any:
    bar = SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)
    split = Samples(items, len(items), "d.calib")
    return SimpleNamespace(seed=0, bindings={}, progress=lambda *_, **__: nullcontext(bar), split=lambda _: split)


def clustered(module: Module, items: list[dict[str, Any]] | None = None, **options: Any) -> Any:
    operation = KMeans(16, min_elements=512, **options)
    return operation.run(module.clone(), context(samples() if items is None else items))


def books(module: Module) -> set[str]:
    return {book.name for book in codebooks(module)}


def output(module: Module, **feeds: Any) -> Any:
    return OrtRunner(module).run({"x": np.stack([sample["x"] for sample in samples()]), **feeds})["y"]


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21, 24])
@pytest.mark.parametrize("way", WAYS)
def test_opsets_and_dynamic_shapes(way: str, opset: int) -> None:
    module = module_of(CHAIN, drawn(**SHAPES), opset)
    result = clustered(module, **WAYS[way])
    assert not verify(result.module)
    assert books(result.module) == {"up", "down"}
    assert any("opset" in note.message for note in result.notes) == (result.module.opset != opset)
    assert result.module.opset == (11 if opset == 7 and way != "whole" else opset)
    assert result.module.dynamic_dims() == ("A", "B")
    expected, got = output(module), output(result.module)
    assert 0 < np.abs(got - expected).max() < 0.4 * np.abs(expected).max()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused_with_the_node(value: float) -> None:
    weights = drawn(**SHAPES)
    weights["down"][3, 4] = value
    module = module_of(CHAIN, weights)
    with pytest.raises(PassError, match=r"weight `down` of node .* holds") as raised:
        clustered(module)
    assert raised.value.node in {node.name for node in module.nodes()}
    assert books(clustered(module, skip=("down",)).module) == {"up"}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(value: float) -> None:
    items = samples()
    items[2]["x"][:] = value
    with pytest.raises(PassError, match=r"NaN|infinit"):
        clustered(module_of(CHAIN, drawn(**SHAPES)), items, **WAYS["data"])


def test_no_samples_are_refused() -> None:
    with pytest.raises(PassError, match="no samples"):
        clustered(module_of(CHAIN, drawn(**SHAPES)), [], **WAYS["data"])


def test_one_sample_does() -> None:
    module = module_of(CHAIN, drawn(**SHAPES))
    after = output(clustered(module, samples(1), **WAYS["data"]).module)
    assert np.abs(after - output(module)).max() < 0.4 * np.abs(output(module)).max()


@pytest.mark.parametrize("way", WAYS)
def test_constant_and_dead_channels_stay_what_they_are(way: str) -> None:
    weights = drawn(**SHAPES)
    weights["up"][:, :64], weights["up"][:, 64:128] = 0, 0.5
    weights["down"][:] = -0.25
    found = {book.name: book.numpy() for book in codebooks(clustered(module_of(CHAIN, weights), **WAYS[way]).module)}
    np.testing.assert_array_equal(found["down"], weights["down"])
    np.testing.assert_array_equal(found["up"][:, :64], 0)
    np.testing.assert_allclose(found["up"][:, 64:128], 0.5, rtol=0.05 if way == "whole" else 1e-3)


@pytest.mark.parametrize("way", WAYS)
def test_a_weight_that_two_layers_share_is_stored_once(way: str) -> None:
    body = "h = MatMul(x, up) r = Relu(h) a = MatMul(r, down) b = MatMul(a, up) s = Relu(b) y = MatMul(s, down)"
    result = clustered(module_of(body, drawn(**SHAPES)), **WAYS[way])
    assert not verify(result.module)
    assert sorted(book.name for book in codebooks(result.module)) == ["down", "up"]
    assert np.isfinite(output(result.module)).all()


def test_branches_are_clustered_too() -> None:
    body = (
        "h = MatMul(x, up) y = If(flag) <then_branch = t () => (float[A,B,8] one) { one = MatMul(h, down) }, "
        "else_branch = e () => (float[A,B,8] two) { two = Identity(x) }>"
    )
    module = module_of(body, drawn(**SHAPES), signature="(float[A,B,8] x, bool flag) => (float[A,B,8] y)")
    result = clustered(module)
    assert not verify(result.module)
    assert books(result.module) == {"up", "down"}
    for flag in (True, False):
        assert output(result.module, flag=np.array(flag)).shape == (4, 5, 8)


def test_foreign_operators_are_left_alone_and_said_so() -> None:
    module = module_of("h = MatMul(x, up) r = acme.Odd(h, own) y = MatMul(r, down)", drawn(**SHAPES, own=(256, 256)))
    result = clustered(module)
    assert books(result.module) == {"up", "down"}
    assert any("left alone: read by `acme.Odd`" in note.message for note in result.notes)
    (own,) = (weight for weight in result.module.weights() if weight.name == "own")
    np.testing.assert_array_equal(own.numpy(), drawn(**SHAPES, own=(256, 256))["own"])


def test_functions_are_left_alone_and_said_so() -> None:
    inner = ", ".join("0.5" for _ in range(64 * 8))
    rest = (
        '<domain: "acme", opset_import: ["": 17]> Block (a) => (c) '
        f"{{ w = Constant<value = float[8, 64] {{{inner}}}>() v = Constant<value = float[64, 8] {{{inner}}}>() "
        "t = MatMul(a, w) c = MatMul(t, v) }"
    )
    result = clustered(module_of("b = acme.Block(x) h = MatMul(b, up) y = MatMul(h, down)", drawn(**SHAPES), rest=rest))
    assert not verify(result.module)
    assert books(result.module) == {"up", "down"}
    assert any("function" in note.message and "left alone" in note.message for note in result.notes)


def test_models_without_weights_are_refused() -> None:
    with pytest.raises(PassError, match="can be clustered"):
        clustered(module_of("y = Relu(x)", {}))
