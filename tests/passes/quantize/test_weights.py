"""`quantize.weights`: each operator and layout against the arithmetic of blocks, refusals, and a real model."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.analysis.cost import cost
from mopt.build.contracts import ContractError, check_promises
from mopt.ir import Module, from_proto, load, provenance, to_proto, verify
from mopt.passes.contract import PassError
from mopt.passes.prune.magnitude import Magnitude
from mopt.passes.quantize import blocks
from mopt.passes.quantize.weights import Weights
from mopt.runtime.compare import compare_modules
from mopt.runtime.inputs import binding_sets
from mopt.runtime.ort import OrtRunner
from mopt.values import Location, Ratio
from onnx import numpy_helper

CONTEXT: Any = SimpleNamespace(seed=0, bindings={}, progress=lambda *_: nullcontext())
EVERY = ("MatMul", "Gemm", "Gather", "Conv", "LSTM")

# operator: graph, shapes of weights, the axis that is summed over, shape of the input
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]], int, tuple[int, ...]]] = {
    "matmul": ("m (float[N, 5, 100] x) => (float[N, 5, 70] y) { y = MatMul(x, w) }", {"w": (100, 70)}, 0, (3, 5, 100)),
    "transposed": (
        "m (float[N, 5, 96] x) => (float[N, 5, 71] y) { t = Transpose<perm = [1, 0]>(w) y = MatMul(x, t) }",
        {"w": (71, 96)},
        1,
        (3, 5, 96),
    ),
    "gemm": (
        "m (float[N, 100] x) => (float[N, 70] y) { y = Gemm<transB = 1, alpha = 0.5>(x, w, b) }",
        {"w": (70, 100), "b": (70,)},
        1,
        (3, 100),
    ),
    "gather": ("m (int64[N] x) => (float[N, 70] y) { y = Gather(w, x) }", {"w": (100, 70)}, 1, (30,)),
    "conv": (
        "m (float[N, 48, 9, 9] x) => (float[N, 20, 7, 7] y) { y = Conv(x, w) }",
        {"w": (20, 48, 3, 3)},
        1,
        (2, 48, 9, 9),
    ),
    "lstm": (
        "m (float[T, N, 48] x) => (float[T, 1, N, 64] y) { y, f, c = LSTM<hidden_size = 64>(x, w, r) }",
        {"w": (1, 256, 48), "r": (1, 256, 64)},
        2,
        (4, 2, 48),
    ),
}


def module(case: str, opset: int = 17) -> Module:
    random = np.random.default_rng(0)
    text, shapes, _, _ = CASES[case]
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
    for name, shape in shapes.items():
        array = random.normal(size=shape).astype(np.float32) * 0.3
        array[random.random(shape) < 0.2] = 0
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto)
    found = from_proto(proto)
    provenance.stamp_source(found)
    return found


def quantized(before: Module, **options: Any) -> tuple[Module, list[str]]:
    result = Weights(**{"operators": EVERY, "min_elements": 1, "compute": "f32"} | options).run(before.clone(), CONTEXT)
    assert not verify(result.module)
    return result.module, [note.message for note in result.notes]


def by_hand(before: Module, case: str, options: Weights) -> Module:
    """The float graph with every weight rounded to its levels."""
    after, axis = before.clone(), CASES[case][2]
    for weight in after.weights():
        if len(weight.shape) > 1:
            moved = np.moveaxis(weight.numpy(), axis, -1)
            found = blocks.quantize(moved, options.bits, options.block, symmetric=options.symmetric)
            weight.replace(np.moveaxis(blocks.dequantize(found, options.block), -1, axis))
    return after


@pytest.mark.parametrize("form", ["nbits", "blocks"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "block"), [(4, 32), (8, 32), (4, 16)])
@pytest.mark.parametrize("case", CASES)
def test_computes_what_its_blocks_say(case: str, bits: int, block: int, symmetric: bool, form: Any) -> None:
    before, options = module(case), {"bits": bits, "block": block, "symmetric": symmetric, "form": form}
    if form == "blocks" and case in ("gather", "transposed"):
        after, notes = quantized(before, **options)
        if case == "gather":
            assert notes[-1].endswith("Gather: the standard has no look-up of rows in blocks")
            return
    after, _ = quantized(before, **options)
    shape = CASES[case][3]
    random = np.random.default_rng(1)
    x = random.integers(0, 100, shape) if case == "gather" else random.normal(size=shape).astype(np.float32)
    expected = OrtRunner(by_hand(before, case, Weights(**options))).run({"x": x})["y"]
    # Without its own fusions: it may choose to multiply in 8 bits.
    actual = OrtRunner(after, optimize="none").run({"x": x})["y"]
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())
    assert not any(weight.name == "w" for weight in after.weights())
    assert np.abs(actual - OrtRunner(before).run({"x": x})["y"]).max() > 0


def test_sizes_and_counts() -> None:
    before = module("matmul")
    dense = cost(before)
    for bits, least in ((4, 4.3), (8, 2.5)):
        for form in ("nbits", "blocks"):
            after = cost(quantized(before, bits=bits, form=form)[0])
            assert (after.parameters, dense.bytes / after.bytes > least) == (7000, True)
            # Zeros stay zeros, and few others become one.
            assert 0.8 * dense.nonzero < after.nonzero <= dense.nonzero


def test_eight_bit_activations_are_an_option() -> None:
    before = module("matmul")
    exact, rough = (quantized(before, bits=8, compute=compute)[0] for compute in ("f32", "i8"))
    assert 0 < compare_modules(exact, rough).max_rel < 0.02


def test_a_weight_of_two_readers_is_stored_once() -> None:
    text = "m (float[N, 64] x) => (float[N, 64] y) { a = MatMul(x, w) y = MatMul(a, w) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    array = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(array, "w"))
    for form in ("nbits", "blocks"):
        after, _ = quantized(from_proto(proto), form=form)
        assert len(list(after.weights())) == 3
        assert compare_modules(from_proto(proto), after).cosine > 0.98


def test_what_stays_in_float_and_why() -> None:
    for options, reason in (
        ({"skip": ("*",)}, "1 left in float, MatMul: named by `skip`"),
        ({"operators": ("Gemm",)}, "1 left in float, MatMul: not among `operators`"),
        ({"min_elements": 7001}, "1 left in float, MatMul: its weight has fewer than 7001 elements"),
    ):
        assert reason in quantized(module("matmul"), **options)[1]
    assert "1 left in float, Conv: it sums over fewer than 64 weights" in quantized(module("conv"), block=64)[1]


def test_refusals() -> None:
    with pytest.raises(PassError, match="bits=5"):
        quantized(module("matmul"), bits=5)
    with pytest.raises(PassError, match="block=48"):
        quantized(module("matmul"), block=48)
    with pytest.raises(PassError, match=r"quantised already: node .* is a MatMulNBits"):
        quantized(quantized(module("matmul"))[0])
    poisoned = module("matmul")
    next(w for w in poisoned.weights()).replace(np.full((100, 70), np.nan, np.float32))
    with pytest.raises(PassError, match=r"weight `w` .* holds NaN"):
        quantized(poisoned)


@pytest.mark.parametrize("form", ["nbits", "blocks"])
@pytest.mark.parametrize("bits", [4, 8])
def test_promised_zeros_are_kept_and_looked_for_in_packed_weights(bits: int, form: Any) -> None:
    pruning, before = Magnitude(Ratio(0.5)), module("matmul")
    pruned = pruning.run(before.clone(), CONTEXT).module
    (promise,) = pruning.promises(before, pruned)
    check_promises(quantized(pruned, bits=bits, form=form)[0], (promise,))
    with pytest.raises(ContractError, match=r"`w` was promised 50.00% zeros"):
        check_promises(quantized(before, bits=bits, form=form)[0], (promise,))


def test_deterministic() -> None:
    first, second = (to_proto(quantized(module("matmul"))[0]).SerializeToString() for _ in range(2))
    assert first == second


def test_blocks_keep_zeros_and_ends() -> None:
    array = np.array([[0, 0, 0, 0], [-1, 0, 2, 3], [5, 6, 7, 8], [-4, -3, -2, -1]], np.float32)
    for symmetric in (False, True):
        found = blocks.quantize(np.tile(array, 4), 4, 16, symmetric=symmetric)
        restored = blocks.dequantize(found, 16)[:, :4]
        assert np.all(restored[array == 0] == 0)
        np.testing.assert_allclose(restored, array, atol=0.6)
    tiny = np.full((1, 16), 1e-42, np.float32)
    assert np.all(np.isfinite(blocks.dequantize(blocks.quantize(tiny, 4, 16, symmetric=False), 16)))


@pytest.mark.parametrize(
    ("bits", "operators", "ratio", "cosine"), [(8, EVERY, 2.3, 0.995), (4, ("MatMul", "Gemm"), 1.3, 0.9)]
)
def test_a_real_recogniser(bits: int, operators: Any, ratio: float, cosine: float) -> None:
    """Its matrix products and convolutions; weights in Constant nodes, opset 12."""
    before = load(Location("pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx").resolve())
    provenance.stamp_source(before)
    after, notes = quantized(before, bits=bits, operators=operators, min_elements=4096)
    assert any("opset raised from" in note for note in notes) == ("Conv" in operators)
    assert len(to_proto(before).SerializeToString()) / len(to_proto(after).SerializeToString()) > ratio
    assert compare_modules(before, after, bindings=binding_sets(before)[0]).cosine > cosine
