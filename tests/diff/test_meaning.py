"""What a diff says of small, telling cases."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from mopt.diff import Diff, diff
from mopt.ir import Module, from_proto, provenance
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)
W1, W2 = (RNG.standard_normal((4, 3, 3, 3)).astype(np.float32), RNG.standard_normal((4, 4, 3, 3)).astype(np.float32))


def module(nodes, weights=None, *, inputs=None, outputs=None, opset=17, values=()) -> Module:
    infos = {"x": (TensorProto.FLOAT, [1, 3, 8, 8]), **(inputs or {})}
    ends = outputs or {"y": (TensorProto.FLOAT, None)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *info) for name, info in infos.items()],
        [helper.make_tensor_value_info(name, *info) for name, info in ends.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
        value_info=list(values),
    )
    return from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))


def node(op, inputs, outputs, name="", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=name or outputs, **attributes)


def conv_bn(folded: bool) -> Module:
    scale = np.array([1, 2, 3, 4], np.float32)
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    if folded:
        nodes = [node("Conv", "x w b", "c", "conv"), node("Relu", "c", "y", "relu")]
        return module(nodes, {"w": W1 * scale[:, None, None, None], "b": zeros})
    nodes = [node("Conv", "x w", "c", "conv"), node("BatchNormalization", "c s b m v", "n", "bn")]
    weights = {"w": W1, "s": scale, "b": zeros, "m": zeros, "v": ones}
    return module([*nodes, node("Relu", "n", "y", "relu")], weights)


def test_names_alone_pair_nothing() -> None:
    before = module([node("Relu", "x", "t", "one"), node("Sigmoid", "t", "y", "two")])
    after = module([node("Sigmoid", "x", "t", "one"), node("Relu", "t", "y", "two")])
    found = diff(before, after)
    pairs = {(r.before, r.after) for r in found.renames} | {(c.before.name, c.after.name) for c in found.changed}
    assert not found.is_empty and ("one", "one") not in pairs and ("two", "two") not in pairs


def test_swapped_names_of_two_convolutions_are_seen_through_with_provenance_stamped_on_both() -> None:
    def build(first: str, second: str) -> Module:
        nodes = [node("Conv", "x w1", "t", first), node("Conv", "t w2", "y", second)]
        result = module(nodes, {"w1": W1, "w2": W2})
        provenance.stamp_source(result)
        return result

    found = diff(build("one", "two"), build("two", "one"))
    assert found.only_renames
    assert {(r.before, r.after) for r in found.renames if r.kind == "node"} == {("one", "two"), ("two", "one")}


def test_batchnorm_folded_into_its_convolution_is_one_replacement() -> None:
    found = diff(conv_bn(folded=False), conv_bn(folded=True), step="simplify.onnxsim")
    assert [group.pattern for group in found.replaced] == ["Conv + BatchNormalization → Conv"]
    assert found.groups[0].kept == ((0, 0),) and found.groups[0].by == ("simplify.onnxsim",)
    assert not found.changed and len(found.weights) == 1
    change = found.weights[0]
    expected = np.abs(W1 * np.array([0, 1, 2, 3], np.float32)[:, None, None, None])
    assert change.error is not None and change.error.max_abs == pytest.approx(expected.max(), rel=1e-6)
    power = np.sqrt(np.mean(W1.astype(np.float64) ** 2) / np.mean(expected.astype(np.float64) ** 2))
    assert change.snr_db == pytest.approx(20 * np.log10(power), rel=1e-6)
    assert found.summary().startswith("1 replaced, 1 weight")
    assert [(step.by, step.changes) for step in found.steps] == [("simplify.onnxsim", 2)]


def test_provenance_names_the_rule_and_its_step() -> None:
    before = conv_bn(folded=False)
    provenance.stamp_source(before)
    after = conv_bn(folded=True)
    conv, relu = after.graph
    sources = list(before.graph)
    provenance.inherit([conv], sources[:2], "simplify.rules/fold-affine")
    conv.metadata_props["mopt.origins"] = '["conv", "bn"]'
    relu.metadata_props["mopt.origins"] = '["relu"]'
    found = diff(before, after)
    assert found.by_provenance == 1
    assert found.replaced[0].by == ("simplify.rules/fold-affine",)
    assert found.weights[0].by == ("simplify.rules/fold-affine",)


def test_attribute_defaults_are_no_difference_and_other_values_are() -> None:
    plain = module([node("LeakyRelu", "x", "y")])
    assert diff(plain, module([node("LeakyRelu", "x", "y", alpha=0.01)])).is_empty
    found = diff(plain, module([node("LeakyRelu", "x", "y", alpha=0.3)]))
    (change,) = found.changed
    assert [(a.name, a.before, a.after) for a in change.attributes] == [("alpha", "0.01", "0.3")]


def test_constant_nodes_and_initializers_are_one_thing() -> None:
    constant = helper.make_node("Constant", [], ["w"], name="k", value=numpy_helper.from_array(W1))
    found = diff(module([constant, node("Conv", "x w", "y")]), module([node("Conv", "x w", "y")], {"w": W1}))
    assert found.moved == (1, 0) and found.changes == 1
    assert found.summary() == "1 weight stored elsewhere"


def test_computed_shape_that_became_a_constant() -> None:
    shape = node("Shape", "x", "s")
    weights = {"s": np.array([1, 3, 8, 8], np.int64)}
    found = diff(module([shape, node("Reshape", "x s", "y")]), module([node("Reshape", "x s", "y")], weights))
    assert [(group.kind, group.pattern) for group in found.groups] == [("removed", "Shape → constant")]
    assert not found.changed and found.weights_added[0].name == "s"


def test_duplicate_taken_from_elsewhere() -> None:
    twice = [node("Relu", "x", "a"), node("Relu", "x", "b"), node("Exp", "a", "c"), node("Sub", "c b", "y")]
    once = [node("Relu", "x", "a"), node("Exp", "a", "c"), node("Sub", "c a", "y")]
    found = diff(module(twice), module(once))
    assert [group.pattern for group in found.removed] == ["Relu (duplicate)"] and not found.changed


def test_quantised_weight_is_compared_decoded() -> None:
    scale = np.float32(np.abs(W1).max() / 127)
    stored = np.clip(np.round(W1 / scale), -128, 127).astype(np.int8)
    weights = {"q": stored, "s": np.array(scale), "z": np.array(0, np.int8)}
    after = module([node("DequantizeLinear", "q s z", "w"), node("Conv", "x w", "y")], weights)
    found = diff(module([node("Conv", "x w", "y")], {"w": W1}), after)
    (change,) = found.weights
    assert change.decoded and (change.before.dtype, change.after.dtype) == ("f32", "i8")
    assert change.after.bytes == stored.size + 4 + 1 and change.after.bits is not None and change.after.bits <= 8
    assert change.error is not None
    assert change.error.max_abs == pytest.approx(np.abs(W1 - stored * scale).max(), rel=1e-5)
    assert not found.weights_added and not found.weights_removed


def test_sparsity_distinct_values_and_error_of_a_changed_weight() -> None:
    pruned = np.where(np.abs(W1) < 0.5, np.float32(0), W1)
    found = diff(module([node("Conv", "x w", "y")], {"w": W1}), module([node("Conv", "x w", "y")], {"w": pruned}))
    (change,) = found.weights
    assert change.after.sparsity == pytest.approx(np.mean(pruned == 0)) and change.before.sparsity == 0
    assert change.after.distinct == len(np.unique(pruned)) and change.before.distinct == W1.size
    assert change.error is not None and change.error.max_abs == pytest.approx(np.abs(W1 - pruned).max())
    assert change.max_rel == pytest.approx(np.abs(W1 - pruned).max() / np.abs(W1).max())
    assert [user.op for user in change.users] == ["Conv"]
    left_out = diff(
        module([node("Conv", "x w", "y")], {"w": W1}),
        module([node("Conv", "x w", "y")], {"w": pruned}),
        weights=False,
    )
    assert left_out.is_empty and not left_out.weights_compared


@pytest.mark.parametrize(
    ("array", "distinct"),
    [
        (np.array([np.nan, 1.0, np.inf], np.float32), None),
        (np.zeros((0, 4), np.float32), 0),
        (np.array([True, False]), 2),
        (np.array(["a", "b"], dtype=object), None),
    ],
)
def test_weights_that_are_hard_to_measure(array: np.ndarray, distinct: int | None) -> None:
    def build(values: np.ndarray) -> Module:
        return module([node("Identity", "w", "y")], {"w": values}, outputs={"y": (_type(values), None)})

    assert diff(build(array), build(array)).is_empty
    other = (
        np.array([*array.reshape(-1), *array.reshape(-1)], dtype=array.dtype) if array.size else np.ones((1, 4), "f")
    )
    found = diff(build(array), build(other))
    (change,) = found.weights
    assert change.error is None
    if distinct is not None:
        assert change.before.distinct == distinct
    assert Diff.from_json(found.to_json()) == found


def _type(array: np.ndarray) -> int:
    return TensorProto.STRING if array.dtype == object else helper.np_dtype_to_tensor_dtype(array.dtype)


def test_interface_types_shapes_and_order() -> None:
    before = module(
        [node("Add", "x z", "y")],
        inputs={"x": (TensorProto.FLOAT, ["N", 4]), "z": (TensorProto.FLOAT, [4])},
    )
    after = module(
        [node("Add", "x z", "out")],
        inputs={"z": (TensorProto.FLOAT, [4]), "x": (TensorProto.FLOAT, [1, 4])},
        outputs={"out": (TensorProto.FLOAT, None)},
    )
    after.graph.inputs.reverse() if after.graph.inputs[0].name == "x" else None
    found = diff(before, after)
    told = {(c.kind, (c.before or c.after).name): c.what for c in found.interface if c.before or c.after}
    assert told[("input", "x")] == ("shape", "moved") and told[("input", "z")] == ("moved",)
    assert "renamed" in told["output", "y"]
    assert found.matched == 1 and not found.groups


def test_shapes_and_types_of_inner_values() -> None:
    def build(dtype: int, dim: int) -> Module:
        nodes = [node("Relu", "x", "t"), node("Exp", "t", "y")]
        return module(nodes, inputs={"x": (dtype, [1, dim])}, outputs={"y": (dtype, [1, dim])})

    found = diff(build(TensorProto.FLOAT, 4), build(TensorProto.FLOAT16, 5))
    (change,) = found.values
    assert (str(change.before), str(change.after)) == ("f32[1, 4]", "f16[1, 5]")


def body(op: str, constant: float, output: str) -> onnx.GraphProto:
    nodes = [
        helper.make_node(
            "Constant", [], [f"{output}_k"], value=numpy_helper.from_array(np.array(constant, np.float32))
        ),
        helper.make_node(op, ["x"], [f"{output}_t"], name=f"{output}_op"),
        helper.make_node("Mul", [f"{output}_t", f"{output}_k"], [output], name=f"{output}_mul"),
    ]
    return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


def test_bodies_are_compared_inside() -> None:
    def build(op: str, constant: float) -> Module:
        branch = node("If", "c", "y", "choice", then_branch=body("Relu", constant, "t"), else_branch=body(op, 1.0, "e"))
        return module([branch], inputs={"c": (TensorProto.BOOL, [])})

    assert diff(build("Exp", 2.0), build("Exp", 2.0)).is_empty
    found = diff(build("Exp", 2.0), build("Tanh", 3.0))
    assert [(g.before[0].scope, g.pattern) for g in found.groups] == [("choice/else_branch", "Exp → Tanh")]
    (change,) = found.weights
    assert change.before.peak == 2.0 and change.after.peak == 3.0
    assert found.matched == 4


def test_model_properties() -> None:
    before, after = module([node("Relu", "x", "y")], opset=17), module([node("Relu", "x", "y")], opset=18)
    after.model.metadata_props["author"] = "somebody"
    found = diff(before, after)
    assert {(p.name, p.before, p.after) for p in found.properties} == {
        ("opset ai.onnx", "17", "18"),
        ("metadata author", None, "somebody"),
    }


def test_cyclic_and_empty_graphs_are_looked_at_all_the_same() -> None:
    empty = module([], outputs={"x": (TensorProto.FLOAT, [1, 3, 8, 8])})
    assert diff(empty, empty.clone()).is_empty
    found = diff(empty, module([node("Relu", "x", "y")]))
    assert found.summary().startswith("+1 node")


def test_large_weights_are_told_apart_beyond_their_samples() -> None:
    large = np.zeros((1024, 1024), np.float32)
    other = large.copy()
    other[517, 311] = 1.0
    found = diff(
        module([node("MatMul", "x w", "y")], {"w": large}, inputs={"x": (TensorProto.FLOAT, [1, 1024])}),
        module([node("MatMul", "x w", "y")], {"w": other}, inputs={"x": (TensorProto.FLOAT, [1, 1024])}),
    )
    (change,) = found.weights
    assert change.after.zeros == large.size - 1
