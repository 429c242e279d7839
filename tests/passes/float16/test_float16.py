"""`convert.float16` on small graphs: what becomes float16, what does not, and where casts stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, provenance, verify
from mopt.passes.convert.float16 import SENSITIVE, Float16
from mopt.runtime.compare import compare_modules
from mopt.runtime.ort import OrtRunner
from onnx import numpy_helper

HEADER = '<ir_version: 8, opset_import: ["": 17]>'
RANDOM = np.random.default_rng(0)
SQUARE = RANDOM.normal(size=(8, 8)).astype(np.float32)


def module(text: str, header: str = HEADER, **weights: Any) -> Module:
    proto = onnx.parser.parse_model(header + text)
    for name, array in weights.items():
        proto.graph.initializer.append(
            numpy_helper.from_array(np.asarray(array, getattr(array, "dtype", np.float32)), name)
        )
    onnx.checker.check_model(proto)
    found = from_proto(proto)
    provenance.stamp_source(found)
    return found


def half(before: Module, **options: Any) -> Module:
    result = Float16(**options).run(before.clone(), None)  # type: ignore[arg-type]
    assert not verify(result.module)
    return result.module


def notes(before: Module, **options: Any) -> list[str]:
    return [note.message for note in Float16(**options).run(before.clone(), None).notes]  # type: ignore[arg-type]


def shown(found: Module) -> list[str]:
    """Each node as `Operator:dtype` of its first output, in order, constants left out."""
    return [
        f"{node.op_type}:{node.outputs[0].dtype.short_name()}"  # type: ignore[union-attr]
        for node in found.nodes()
        if node.op_type != "Constant"
    ]


def test_casts_stand_only_at_the_interface() -> None:
    before = module("m (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, w) b = Relu(a) y = Add(b, a) }", w=SQUARE)
    after = half(before)
    assert shown(after) == ["Cast:f16", "MatMul:f16", "Relu:f16", "Add:f16", "Cast:f32"]
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    assert {weight.dtype for weight in after.weights()} == {"f16"}
    assert compare_modules(before, after).max_rel < 2e-3


def test_half_interface_needs_no_cast() -> None:
    before = module("m (float[N, 8] x, int64 i) => (float[N, 8] y, int64 j) { y = MatMul(x, w) j = Neg(i) }", w=SQUARE)
    after = half(before, interface="float16")
    assert shown(after) == ["MatMul:f16", "Neg:i64"]
    assert [port.dtype for port in (*after.inputs, *after.outputs)] == ["f16", "i64", "f16", "i64"]
    assert compare_modules(before, after).max_rel < 2e-3


@pytest.mark.parametrize("operator", ["Exp", "Softmax", "Sqrt", "ReduceMean", "Log", "Reciprocal"])
def test_sensitive_operators_stay(operator: str) -> None:
    before = module(
        f"m (float[N, 8] x) => (float y) {{ a = MatMul(x, w) b = Abs(a) c = {operator}(b) y = ReduceMax(c) }}", w=SQUARE
    )
    assert f"{operator}:f32" in shown(half(before))
    assert f"{operator}:f16" in shown(half(before, keep=()))


def test_keep_and_skip() -> None:
    before = module("m (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, w) b = MatMul(a, w) y = Relu(b) }", w=SQUARE)
    names = [node.name for node in before.nodes()]
    after = half(before, skip=(names[1],))
    assert shown(after) == ["Cast:f16", "MatMul:f16", "Cast:f32", "MatMul:f32", "Relu:f32"]
    assert sorted(weight.dtype for weight in after.weights()) == ["f16", "f32"]  # `w` serves both precisions
    assert not any(text.endswith("f16") for text in shown(half(before, keep=("MatMul", "Relu"))))
    assert compare_modules(before, after).max_rel < 2e-3


def test_cheap_nodes_between_kept_ones_are_kept_too() -> None:
    before = module(
        "m (float[N, 8] x) => (float[N, 8] y)"
        "{ a = MatMul(x, w) p = Pow(a, two) m = ReduceMean<axes = [1]>(p) e = Add(m, eps) s = Sqrt(e) y = Div(a, s) }",
        w=SQUARE, two=2.0, eps=1e-12,
    )  # fmt: skip
    after = half(before)
    assert shown(after) == [
        "Cast:f16", "MatMul:f16", "Cast:f32", "Pow:f32", "ReduceMean:f32", "Add:f32", "Sqrt:f32", "Cast:f16",
        "Div:f16", "Cast:f32",
    ]  # fmt: skip
    feeds = {"x": np.zeros((1, 8), np.float32)}
    assert shown(half(after)) == shown(after)
    assert np.isfinite(OrtRunner(after).run(feeds)["y"]).all()  # 1e-12 is 0 in float16, and 0 / 0 is no number


def test_a_mask_beyond_the_range_stays_in_float32_up_to_the_softmax() -> None:
    before = module(
        "m (float[N, 8] x, float[N, 8] mask) => (float[N, 8] y) {"
        " a = MatMul(x, w) n = Sub(one, mask) m = Mul(n, lowest) s = Add(a, m) p = Softmax(s) y = MatMul(p, w) }",
        w=SQUARE, one=1.0, lowest=float(np.finfo(np.float32).min),
    )  # fmt: skip
    after = half(before, keep=())
    assert "Add:f32" in shown(after)
    assert "Softmax:f32" in shown(after)
    assert shown(after).count("MatMul:f16") == 2
    feeds = {"x": np.ones((2, 8), np.float32), "mask": np.zeros((2, 8), np.float32)}
    expected, actual = OrtRunner(before).run(feeds)["y"], OrtRunner(after).run(feeds)["y"]
    np.testing.assert_allclose(actual, expected, atol=5e-3)  # a fully masked row: -inf everywhere would be NaN


def test_weights_beyond_the_range_keep_their_node() -> None:
    weight = SQUARE.copy()
    weight[3, 4] = 70000.0
    before = module("m (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, w) y = MatMul(a, v) }", w=weight, v=SQUARE)
    after = half(before)
    assert shown(after) == ["MatMul:f32", "Cast:f16", "MatMul:f16", "Cast:f32"]
    assert any("constant beyond float16's range" in text for text in notes(before))
    assert {weight.name: weight.dtype for weight in after.weights()} == {"w": "f32", "v": "f16"}


def test_infinities_are_no_overflow() -> None:
    before = module("m (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, w) y = Max(a, low) }", w=SQUARE, low=-np.inf)
    assert "Max:f16" in shown(half(before))


def test_a_bound_beyond_the_range_becomes_its_end() -> None:
    before = module(
        "m (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, w) y = Clip(a, zero, high) }",
        w=SQUARE,
        zero=0.0,
        high=3e38,
    )
    after = half(before)
    assert "Clip:f16" in shown(after)
    values = {weight.name: weight.numpy() for weight in after.weights()}
    assert values["high"] == np.float16(65504)


def test_elements_that_vanish_are_told() -> None:
    weight = SQUARE.copy()
    weight[0, :3] = 1e-9
    before = module("m (float[N, 8] x) => (float[N, 8] y) { y = MatMul(x, w) }", w=weight)
    assert any("3 non-zero elements are too small" in text and "`w` (3)" in text for text in notes(before))


def test_wide_integers_are_not_squeezed() -> None:
    before = module(
        "m (int64[N, 8] i, float[N, 8] x) => (float[N, 8] y, int64[N, 8] j)"
        "{ f = Cast<to = 1>(i) g = Mul(f, three) j = Cast<to = 7>(g) a = MatMul(x, w) y = Relu(a) }",
        w=SQUARE, three=3.0,
    )  # fmt: skip
    after = half(before)
    feeds = {"i": np.full((1, 8), 100_001), "x": np.ones((1, 8), np.float32)}
    assert OrtRunner(after).run(feeds)["j"].tolist() == [[300_003] * 8]


def test_small_integers_are_exact_in_half_precision() -> None:
    before = module("m (uint8[N, 8] i) => (float[N, 8] y) { f = Cast<to = 1>(i) y = MatMul(f, w) }", w=SQUARE)
    assert shown(half(before)) == ["Cast:f16", "MatMul:f16", "Cast:f32"]


def test_resize_keeps_scales_and_region_in_float32() -> None:
    before = module(
        'm (float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y) { y = Resize<mode = "linear">(x, roi, scales) }',
        roi=np.zeros(0, np.float32), scales=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    after = half(before)
    assert "Resize:f16" in shown(after)
    assert {weight.dtype for weight in after.weights()} == {"f32"}
    assert compare_modules(before, after).max_rel < 2e-3


def test_operators_without_a_half_form_get_float32() -> None:
    before = module(
        "m (float[N, 8] x) => (uint8[N, 8] y) { a = MatMul(x, w) y, s, z = DynamicQuantizeLinear(a) }", w=SQUARE
    )
    after = half(before)
    assert shown(after) == ["Cast:f16", "MatMul:f16", "Cast:f32", "DynamicQuantizeLinear:u8"]
    assert any("DynamicQuantizeLinear has no float16 form" in text for text in notes(before))


BRANCHES = (
    "m (float[N, 8] x, bool f) => (float[N, 8] y) {{ a = MatMul(x, w) b = If (f)"
    "<then_branch = t () => (float[N, 8] c) {{ c = {then}(a) }},"
    " else_branch = e () => (float[N, 8] d) {{ d = MatMul(a, w) }}>"
    " y = Relu(b) }}"
)


@pytest.mark.parametrize(("then", "casts"), [("Neg", 2), ("Exp", 4)])
def test_branches_agree_on_one_precision(then: str, casts: int) -> None:
    before = module(BRANCHES.format(then=then), w=SQUARE)
    after = half(before)
    assert "If:f16" in shown(after)
    assert sum(text.startswith("Cast") for text in shown(after)) == casts
    for flag in (True, False):
        feeds = {"x": RANDOM.normal(size=(3, 8)).astype(np.float32) * 0.3, "f": np.array(flag)}
        expected, actual = OrtRunner(before).run(feeds)["y"], OrtRunner(after).run(feeds)["y"]
        np.testing.assert_allclose(actual, expected, rtol=5e-3, atol=5e-3)


def test_loops_carry_half_precision() -> None:
    before = module(
        "m (float[N, 8] x, int64 n, bool go) => (float[N, 8] y, float[T, N, 8] all) { y, all = Loop (n, go, x)"
        "<body = step (int64 i, bool c, float[N, 8] s) => (bool d, float[N, 8] u, float[N, 8] v)"
        "{ d = Identity(c) p = MatMul(s, w) u = Tanh(p) v = Exp(u) }> }",
        w=SQUARE,
    )
    after = half(before)
    assert {"MatMul:f16", "Tanh:f16", "Exp:f32", "Loop:f16"} <= set(shown(after))
    feeds = {"x": RANDOM.normal(size=(2, 8)).astype(np.float32), "n": np.array(3), "go": np.array(True)}
    expected, actual = OrtRunner(before).run(feeds), OrtRunner(after).run(feeds)
    for name in ("y", "all"):
        np.testing.assert_allclose(actual[name], expected[name], rtol=2e-2, atol=2e-2)


def test_casts_that_do_nothing_any_more_are_removed() -> None:
    before = module(
        "m (float[N, 8] x) => (float[N, 8] y) { a = MatMul(x, w) h = Cast<to = 10>(a) r = Relu(h)"
        " b = Cast<to = 1>(r) y = MatMul(b, w) }",
        w=SQUARE,
    )
    assert shown(half(before)) == ["Cast:f16", "MatMul:f16", "Relu:f16", "MatMul:f16", "Cast:f32"]


def test_again_and_integer_graphs_change_nothing() -> None:
    before = module("m (float[N, 8] x) => (float[N, 8] y) { y = MatMul(x, w) }", w=SQUARE)
    once = half(before, interface="float16")
    for found in (once, module("m (int64[N] x) => (int64[N] y) { y = Neg(x) }")):
        result = Float16(interface="float16").run(found.clone(), None)  # type: ignore[arg-type]
        assert not result.modified
        assert "nothing here computes in float32" in result.notes[0].message


def test_constants_in_every_form() -> None:
    before = module(
        "m (float[N, 2] x) => (float[N, 2] y) {"
        " a = Constant<value_float = 0.5>() b = Constant<value_floats = [1.0, 2.0]>() n = Constant<value_ints = [2]>()"
        " c = ConstantOfShape<value = float[1] {3.0}>(n) p = Mul(x, a) q = Add(p, b) r = MatMul(q, w) y = Sub(r, c) }",
        w=SQUARE[:2, :2],
    )
    after = half(before)
    assert "ConstantOfShape:f16" in shown(after)
    assert {weight.dtype for weight in after.weights()} == {"f16", "i64"}
    assert compare_modules(before, after).max_rel < 2e-3


def test_names_of_operators_kept_by_default_are_operators() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert set(SENSITIVE) <= known


@pytest.mark.parametrize("order", [[1, 0, 2], [1, 2, 0]])
@pytest.mark.parametrize("nodes", range(4))
def test_a_moved_batch_axis_before_a_product_loads(order: list[int], nodes: int) -> None:
    """Onnxruntime 1.31 crashes on this pattern where the transpose computes in float16."""
    size = {"[1, 0, 2]": 5, "[1, 2, 0]": 3}[str(order)]
    chain = "".join(f" r{index + 1} = Neg(r{index})" for index in range(nodes))
    before = module(
        f"m (float[3, 4, 5] x) => (float[A, B, 6] y) {{ r0 = Relu(x){chain} t = Transpose<perm = {order}>(r{nodes})"
        " y = MatMul(t, w) }",
        w=RANDOM.normal(size=(size, 6)).astype(np.float32),
    )
    after = half(before)
    assert shown(half(after)) == shown(after)
    assert "Transpose:f32" in shown(after)
    assert "MatMul:f16" in shown(after)
    assert compare_modules(before, after).max_rel < 5e-3
