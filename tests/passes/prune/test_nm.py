"""`prune.nm`: the axis it counts along, its ties, what it leaves alone, and real models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, load, provenance, verify
from mopt.passes.contract import PassError
from mopt.passes.prune.nm import NM
from mopt.values import Location, NofM
from onnx import numpy_helper

HEADER = '<ir_version: 8, opset_import: ["": 13]> '


def module(text: str, **weights: np.ndarray[Any, Any]) -> Module:
    proto = onnx.parser.parse_model(HEADER + text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(proto)
    found = from_proto(proto)
    provenance.stamp_source(found)
    return found


def weights(found: Module) -> dict[str, np.ndarray[Any, Any]]:
    return {weight.name: weight.numpy().copy() for weight in found.weights()}


def pruned(before: Module, **options: Any) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    result = NM(**options).run(before.clone(), None)  # type: ignore[arg-type]
    assert not verify(result.module)
    return weights(result.module), [note.message for note in result.notes]


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def holds(array: np.ndarray[Any, Any], axis: int, n: int, m: int) -> bool:
    lanes = np.moveaxis(array, axis, -1).reshape(-1, m)
    return bool(np.all(np.count_nonzero(lanes, axis=1) == n))


CASES = {
    "conv": ("m (float[N, 8, 9, 9] x) => (float[N, 3, 7, 7] y) { y = Conv(x, w) }", (3, 8, 3, 3), 1),
    "grouped": ("m (float[N, 8, 9, 9] x) => (float[N, 4, 9, 9] y) { y = Conv<group = 2>(x, w) }", (4, 4, 1, 1), 1),
    "matmul": ("m (float[N, 5, 8] x) => (float[N, 5, 3] y) { y = MatMul(x, w) }", (8, 3), 0),
    "batched": ("m (float[2, 5, 8] x) => (float[2, 5, 3] y) { y = MatMul(x, w) }", (2, 8, 3), 1),
    "left": ("m (float[8, N] x) => (float[3, N] y) { y = MatMul(w, x) }", (3, 8), 1),
    "gemm": ("m (float[N, 8] x) => (float[N, 3] y) { y = Gemm(x, w) }", (8, 3), 0),
    "gemm_transposed": ("m (float[N, 8] x) => (float[N, 3] y) { y = Gemm<transB = 1>(x, w) }", (3, 8), 1),
    "transposed": (
        "m (float[N, 5, 8] x) => (float[N, 5, 3] y) { t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t) }",
        (3, 8),
        1,
    ),
}


@pytest.mark.parametrize("pattern", [NofM(2, 4), NofM(1, 4), NofM(4, 8), NofM(1, 2)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_keeps_the_largest_along_the_summed_axis(case: str, pattern: NofM) -> None:
    text, shape, axis = CASES[case]
    before = normal(*shape)
    if shape[axis] % pattern.m:
        with pytest.raises(PassError, match=f"{pattern.m} does not divide its 4 inputs"):
            pruned(module(text, w=before), pattern=pattern)
        return
    after = pruned(module(text, w=before), pattern=pattern)[0]["w"]
    assert holds(after, axis, pattern.n, pattern.m)
    assert np.array_equal(after[after != 0], before[after != 0])
    kept = np.moveaxis(np.where(after != 0, np.abs(before), np.inf), axis, -1).reshape(-1, pattern.m).min(1)
    gone = np.moveaxis(np.where(after == 0, np.abs(before), 0), axis, -1).reshape(-1, pattern.m).max(1)
    assert np.all(gone <= kept)


def test_among_equals_the_earlier_goes_first_and_zeros_stay_zero() -> None:
    text = CASES["matmul"][0]
    weight = np.zeros((8, 3), np.float32)
    weight[:, 0], weight[:4, 1] = 1, (0, 2, 0, -2)
    after = pruned(module(text, w=weight))[0]["w"]
    assert after.T.tolist() == [[0, 0, 1, 1, 0, 0, 1, 1], [0, 2, 0, -2, 0, 0, 0, 0], [0] * 8]


def test_again_changes_nothing() -> None:
    first = NM().run(module(CASES["conv"][0], w=normal(3, 8, 3, 3)), None)  # type: ignore[arg-type]
    assert first.modified
    assert not NM().run(first.module.clone(), None).modified  # type: ignore[arg-type]


MIXED = """m (float[N, 6, 8, 8] x) => (float[N, 2, 8, 8] y, float[8, 8] z) {
  a = Conv<pads = [1, 1, 1, 1]>(x, odd)
  b = Conv<group = 8, pads = [1, 1, 1, 1]>(a, depthwise)
  c = Conv(b, point)
  d = ConvTranspose(c, up)
  y = Conv(d, head)
  e = MatMul(tied, tied)
  z = MatMul(e, square)
}"""


def mixed() -> Module:
    return module(
        MIXED, odd=normal(8, 6, 3, 3), depthwise=normal(8, 1, 3, 3), point=normal(8, 8, 1, 1),
        up=normal(8, 8, 1, 1), head=normal(2, 8, 1, 1), tied=normal(8, 8), square=normal(8, 8),
    )  # fmt: skip


def test_says_what_it_left_alone_and_why() -> None:
    before = weights(mixed())
    after, notes = pruned(mixed(), skip=("square",))
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {"point", "head"}
    assert notes == [
        "2 weights are 2:4 sparse: 40 of 80 elements are zero",
        "1 weight (432 elements) left alone: 4 does not divide its 6 inputs",
        "1 weight (72 elements) left alone: 4 does not divide its 1 inputs",
        "1 weight (64 elements) left alone: no sparse kernel reads it (ConvTranspose)",
        "1 weight (64 elements) left alone: its readers sum over different axes",
        "1 weight (64 elements) left alone: named by `skip`",
    ]


def test_promises_what_holds() -> None:
    before = mixed()
    operation = NM()
    after = operation.run(before.clone(), None).module  # type: ignore[arg-type]
    (promise,) = operation.promises(before, after)
    assert promise.weights == (("point", 64, 0.5), ("head", 16, 0.5), ("square", 64, 0.5))


def test_refuses_patterns_and_values_without_sense() -> None:
    for pattern in (NofM(4, 4), NofM(0, 4)):
        with pytest.raises(PassError, match="keeps"):
            pruned(mixed(), pattern=pattern)
    with pytest.raises(PassError, match="`only` matches no weight: `haed`") as caught:
        pruned(mixed(), only=("haed",))
    assert "head" in str(caught.value.help)
    poisoned = normal(8, 3)
    poisoned[2, 1] = np.nan
    with pytest.raises(PassError, match=r"weight `w` of node .* holds NaN"):
        pruned(module(CASES["matmul"][0], w=poisoned))
    assert any('skip=["nothing"]' in note for note in pruned(mixed(), skip=("nothing",))[1])


@pytest.mark.parametrize(
    "path",
    [
        "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",  # weights in Constant nodes
        "pkg:silero_vad/data/silero_vad.onnx",  # weights inside the branches of an If
    ],
)
def test_real_models(path: str) -> None:
    before = load(Location(path).resolve())
    provenance.stamp_source(before)
    operation = NM()
    result = operation.run(before.clone(), None)  # type: ignore[arg-type]
    assert not verify(result.module)
    (promise,) = operation.promises(before, result.module)
    found = weights(result.module)
    assert len(promise.weights) > 4
    assert all(0.5 <= share <= np.mean(found[name] == 0) for name, _, share in promise.weights)
