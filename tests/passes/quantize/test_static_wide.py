"""`quantize.static`: 16-bit activations, on the whole graph and on sensitive units alone."""

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
from mopt.values import DataRef, Ratio
from onnx import numpy_helper

RANDOM = np.random.default_rng(0)
# The tail of x is what 8 bits can't hold beside the rest: most elements are about 1, few about 300.
GIVEN = [{"x": (np.exp(RANDOM.normal(size=(8, 12, 12)) * 1.6)).astype(np.float32)} for _ in range(6)]


class Bar:
    def advance(self, steps: int = 1) -> None: ...
    def describe(self, text: str) -> None: ...


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Bar]:
    yield Bar()


@pytest.fixture
def before() -> Module:
    text = (
        "m (float[N, 8, 12, 12] x) => (float[N, 10] y) { a = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(a)"
        " c = Conv(r, v) d = Relu(c) p = GlobalAveragePool(d) f = Flatten(p) y = Gemm<transB = 1>(f, g, h) }"
    )
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]>{text}')
    weights = {
        "w": RANDOM.normal(size=(16, 8, 3, 3)) / 8, "b": RANDOM.normal(size=16),
        "v": RANDOM.normal(size=(12, 16, 1, 1)), "g": RANDOM.normal(size=(10, 12)), "h": RANDOM.normal(size=10),
    }  # fmt: skip
    proto.graph.initializer.extend(numpy_helper.from_array(a.astype(np.float32), name) for name, a in weights.items())
    loaded = from_proto(proto)
    provenance.stamp_source(loaded)
    return loaded


def quantized(before: Module, **options: Any) -> tuple[Module, list[Any]]:
    split = Samples(GIVEN, len(GIVEN), "calib")
    context: Any = SimpleNamespace(seed=0, bindings={}, scratch=Path(), progress=bar, split=lambda _: split)
    result = Static(data=DataRef("d", "calib"), **options).run(before.clone(), context)
    assert not verify(result.module)
    return result.module, list(result.notes)


def error(before: Module, after: Module) -> float:
    with OrtRunner(before) as one, OrtRunner(after) as two:
        feeds = {"x": np.stack([sample["x"] for sample in GIVEN])}
        wanted, got = one.run(feeds)["y"], two.run(feeds)["y"]
    return float(np.mean((wanted - got) ** 2) / np.var(wanted))


def zero_points(found: Module) -> list[str]:
    """The storage of each activation put on a grid."""
    content = {weight.name: weight.dtype for weight in found.weights()}
    quantizers = [node for node in found.nodes() if node.op_type == "QuantizeLinear"]
    return [content[str(node.inputs[2].name)] for node in quantizers if node.inputs[2] is not None]


@pytest.mark.parametrize(("activations", "stored"), [("uint16", "u16"), ("int16", "i16")])
@pytest.mark.parametrize("symmetric", [False, True])
def test_sixteen_bits_lose_less_than_eight(before: Module, activations: str, stored: str, symmetric: bool) -> None:
    after, notes = quantized(before, activations=activations, symmetric=symmetric, method="minmax")
    assert after.opset == 21 and zero_points(after) == [stored] * 3
    assert sorted(w.dtype for w in after.weights() if w.size > 100) == ["i8", "i8", "i8"]
    narrow, _ = quantized(before, method="minmax")
    assert error(before, after) < 0.3 * error(before, narrow)
    (note,) = [note for note in notes if "computes in float" in note.message]
    assert len(note.nodes) == 3


def test_only_sensitive_units_get_sixteen_bits(before: Module) -> None:
    first = next(node.name for node in before.nodes() if node.op_type == "Conv")
    after, notes = quantized(before, budget=Ratio(0.9), sensitive="uint16", method="minmax")
    assert after.opset == 21
    assert "u16" in zero_points(after) and "u8" in zero_points(after)
    wide = {name for note in notes if "in 16 bits as sensitive" in note.message for name in note.nodes}
    assert first in wide
    narrow, _ = quantized(before, method="minmax")
    assert error(before, after) < 0.5 * error(before, narrow)
    assert not any(weight.dtype == "f32" and weight.size > 150 for weight in after.weights())


def test_nothing_wide_needs_no_new_opset(before: Module) -> None:
    after, _ = quantized(before, sensitive="int16")  # without a budget nothing is sensitive
    assert after.opset == 13 and set(zero_points(after)) == {"u8"}


@pytest.mark.parametrize("options", [{"activations": "int16"}, {"sensitive": "uint16"}])
def test_tensorrt_has_no_sixteen_bits(before: Module, options: dict[str, Any]) -> None:
    with pytest.raises(PassError, match="can't be placed for TensorRT"):
        quantized(before, placement="tensorrt", **options)
