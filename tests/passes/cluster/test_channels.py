"""`cluster.kmeans` with a codebook for each channel, with calibration data, and under quantisers."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from mopt.analysis.codebook import codebooks
from mopt.analysis.codebook_expand import expand
from mopt.analysis.cost import cost
from mopt.build.contracts import ContractError, check_promises
from mopt.ir import Module, from_proto, provenance, to_proto, verify
from mopt.passes.cluster.kmeans import KMeans
from mopt.passes.cluster.lloyd import kmeans
from mopt.passes.cluster.rows import distinct, kmeans_rows
from mopt.passes.contract import PassError
from mopt.passes.convert.float16 import Float16
from mopt.passes.prune.magnitude import Magnitude
from mopt.passes.quantize.dynamic import Dynamic
from mopt.passes.quantize.static import Static
from mopt.passes.quantize.weights import Weights
from mopt.passes.simplify.rules import Rules
from mopt.passes.simplify.simplify import Simplify
from mopt.runtime.data.splits import Samples
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, Ratio
from onnx import numpy_helper

BAR: Any = SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)


def context(count: int = 8) -> Any:
    random = np.random.default_rng(5)
    # Some input channels matter much more than others, and their mean is not zero.
    weight = np.linspace(0.1, 3, 24, dtype=np.float32)[:, None, None]
    samples = [{"x": (random.random((24, 6, 6)) * weight).astype(np.float32)} for _ in range(count)]
    split = Samples(samples, count, "calib")
    return SimpleNamespace(seed=0, bindings={}, progress=lambda *_: nullcontext(BAR), split=lambda _: split)


def network(opset: int = 13) -> Module:
    """Conv → depthwise Conv → ConvTranspose → MatMul → Add → Gemm → LSTM, [N, 24, 6, 6] → [36, 1, N, 40]."""
    random = np.random.default_rng(0)
    text = (
        f'<ir_version: 8, opset_import: ["": {opset}]> m (float[N, 24, 6, 6] x) => (float[T, 2, N, 40] y)'
        "{ a = Conv<pads = [1, 1, 1, 1]>(x, conv, bias) b = Relu(a) c = Conv<pads = [2, 2, 2, 2], group = 32>(b, depth)"
        " d = ConvTranspose(c, up) r = Reshape(d, flat) e = MatMul(r, product) f = Add(e, shift) s = Reshape(f, rows)"
        " g = Gemm<transB = 1>(s, gemm) t = Reshape(g, steps) y, h, k = "
        "LSTM<hidden_size = 40, direction = 'bidirectional'>(t, w, rr) }".replace("'", '"')
    )
    proto = onnx.parser.parse_model(text)
    shapes = {
        "conv": (32, 24, 3, 3), "bias": (32,), "depth": (32, 1, 5, 5), "up": (32, 40, 1, 1), "product": (40, 96),
        "shift": (96,), "gemm": (72, 96), "w": (2, 160, 72), "rr": (2, 160, 40),
    }  # fmt: skip
    for name, shape in shapes.items():
        spread = np.exp(random.normal(size=shape[:1] + (1,) * (len(shape) - 1)))  # channels differ in range
        array = (random.standard_t(4, size=shape) * spread * 0.1).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, target in {"flat": (-1, 36, 40), "rows": (-1, 96), "steps": (36, -1, 72)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
    onnx.checker.check_model(proto)
    module = from_proto(proto)
    provenance.stamp_source(module)
    return module


def run(operation: Any, before: Module) -> Module:
    result = operation.run(before.clone(), context())
    assert result.modified
    assert not verify(result.module)
    check_promises(result.module, operation.promises(before, result.module))
    return result.module


def nbytes(module: Module) -> int:
    return len(to_proto(module).SerializeToString())


def weights(module: Module) -> dict[str, np.ndarray[Any, Any]]:
    return {one.name: one.numpy() for one in module.weights()} | {one.name: one.numpy() for one in codebooks(module)}


CHANNELS = KMeans(16, channels=1, min_elements=512)
DATA = DataRef("d", "calib")


def test_rows_are_clustered_as_well_as_alone() -> None:
    random = np.random.default_rng(1)
    rows = (random.standard_t(4, size=(9, 700)) * np.exp(random.normal(size=(9, 1)))).astype(np.float32)
    rows[2, :70] = 0
    rows[3] = 1.5
    rows[4, 5:] = rows[4, 0]
    centroids, indices = kmeans_rows(rows, 16, keep_zeros=True)
    found = np.take_along_axis(centroids, indices.astype(int), axis=1)
    assert np.all(found[2, :70] == 0)
    assert np.array_equal(found[3], rows[3])
    assert np.allclose(found[4], rows[4], rtol=1e-6)
    for row, mine in zip(rows, found, strict=True):
        best, places = kmeans(row, 16, keep_zeros=True)
        assert np.square(mine - row).sum() <= 1.1 * np.square(best[places] - row).sum() + 1e-9
        # Every element has the nearest centroid of its row.
        assert np.allclose(np.abs(mine - row), np.abs(np.unique(mine)[:, None] - row).min(axis=0), atol=1e-6)


def test_weights_of_errors_move_centroids() -> None:
    random = np.random.default_rng(2)
    rows, heavy = random.normal(size=(4, 500)), random.random((4, 500)) ** 4 + 1e-3
    for weighted, plain in (
        (kmeans_rows(rows, 8, keep_zeros=False, weights=heavy), kmeans_rows(rows, 8, keep_zeros=False)),
        tuple(
            (books[None].repeat(4, 0), places)
            for books, places in (kmeans(rows, 8, keep_zeros=False, weights=one) for one in (heavy, None))
        ),
    ):
        errors = [
            float((heavy * np.square(np.take_along_axis(books, places.astype(int), axis=1) - rows)).sum())
            for books, places in (weighted, plain)
        ]
        assert errors[0] < 0.97 * errors[1]


@pytest.mark.parametrize("opset", [13, 21])
def test_looks_up_by_channel_what_it_says(opset: int, tmp_path: Any) -> None:
    before = network(opset)
    after = run(CHANNELS, before)
    books = {book.name: book for book in codebooks(after)}
    assert set(books) == {"conv", "depth", "up", "product", "gemm", "w", "rr"}
    rows = {"conv": 32, "depth": 32, "up": 40, "product": 96, "gemm": 72, "w": 320, "rr": 320}
    for name, axis in {"conv": 0, "depth": 0, "up": 1, "product": 1, "gemm": 0}.items():
        array = books[name].numpy()
        assert array.shape == weights(before)[name].shape
        assert distinct(np.moveaxis(array, axis, 0).reshape(rows[name], -1)).max() <= 16
    assert distinct(books["w"].numpy().reshape(320, -1)).max() <= 16
    errors = {name: np.std(book.numpy() - weights(before)[name]) / np.std(weights(before)[name])
              for name, book in books.items()}  # fmt: skip
    assert max(errors.values()) < 0.12
    assert np.std(KMeansError("conv", before)) > 1.5 * errors["conv"] * np.std(weights(before)["conv"])
    dense = after.clone()
    assert set(expand(dense)) == set(books)
    assert {node.op_type for node in dense.nodes()} == {node.op_type for node in before.nodes()}
    feeds = {"x": np.random.default_rng(3).normal(size=(2, 24, 6, 6)).astype(np.float32)}
    assert np.array_equal(OrtRunner(after).run(feeds)["y"], OrtRunner(dense).run(feeds)["y"])
    assert nbytes(before) / nbytes(after) > 3.2
    assert cost(after).parameters == cost(before).parameters
    settings = onnxruntime.SessionOptions()
    settings.optimized_model_filepath, settings.log_severity_level = str(tmp_path / "loaded.onnx"), 3
    onnxruntime.InferenceSession(to_proto(after).SerializeToString(), settings, ["CPUExecutionProvider"])
    loaded = {node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node}
    assert loaded.isdisjoint({"Gather", "GatherElements", "Cast"})


def KMeansError(name: str, before: Module) -> np.ndarray[Any, Any]:
    """Return the error that one codebook for the whole weight makes."""
    array = weights(before)[name]
    centroids, indices = kmeans(array, 16, keep_zeros=True)
    return np.asarray(centroids[indices] - array)


@pytest.mark.parametrize("opset", [13, 21])
def test_survives_simplification_and_half_precision(opset: int) -> None:
    before = network(opset)
    after = run(CHANNELS, before)
    promises = CHANNELS.promises(before, after)
    for operation in (Rules(), Simplify()):
        simplified = operation.run(after.clone(), context()).module
        # A folder may write out what takes no more than 16 KiB as int64: the two smallest, where there is no uint4.
        assert {one.name for one in codebooks(simplified)} >= {"conv", "product", "gemm", "w", "rr"}
        assert nbytes(simplified) < 1.1 * nbytes(after)
        check_promises(simplified, promises)
    check_promises(Float16().run(after.clone(), context()).module, promises)


def test_several_channels_share_a_codebook() -> None:
    before = network()
    sizes = [nbytes(run(KMeans(16, channels=channels, min_elements=512), before)) for channels in (1, 4, 1000)]
    assert sizes[0] > sizes[1] > sizes[2]
    books = {one.name: one for one in codebooks(run(KMeans(16, channels=5, min_elements=512), before))}
    assert books["conv"].rows == (8, 4 * 24 * 9)  # 5 does not divide 32
    assert books["up"].rows == (8, 5 * 32)


def test_zeros_survive_in_every_channel() -> None:
    sparse = run(Magnitude(Ratio(0.3)), network())
    for operation in (CHANNELS, KMeans(16, channels=1, min_elements=512, data=DATA)):
        after = weights(run(operation, sparse))
        for name in ("conv", "product", "w"):
            assert np.all(after[name][weights(sparse)[name] == 0] == 0)


def test_data_brings_outputs_closer() -> None:
    before, drift = network(), {}
    feeds = {"x": np.stack([one["x"] for one in context(32).split(None)])}
    (expected,) = (OrtRunner(before).run(feeds)["y"],)
    for data in (None, DATA):
        after = run(KMeans(8, channels=1, min_elements=512, only=("conv", "gemm", "product"), data=data), before)
        drift[data] = float(np.square(OrtRunner(after).run(feeds)["y"] - expected).mean())
    assert drift[DATA] < 0.85 * drift[None]
    result = KMeans(8, data=DATA, min_elements=512).run(network(), context())
    assert any("4 biases corrected" in note.message for note in result.notes), result.notes
    with pytest.raises(PassError, match="no samples to calibrate with"):
        KMeans(8, data=DATA).run(network(), context(0))


@pytest.mark.parametrize("quantiser", [Dynamic(), Static(data=DATA)], ids=["dynamic", "static"])
@pytest.mark.parametrize("clustering", [CHANNELS, KMeans(16, min_elements=512), KMeans(256, min_elements=512)])
def test_an_integer_grid_holds_the_clusters(quantiser: Any, clustering: KMeans) -> None:
    before = network()
    clustered = run(clustering, before)
    dense = clustered.clone()
    expand(dense)
    expected, result = (quantiser.run(module, context()) for module in (dense, clustered.clone()))
    after = result.module
    assert not verify(after)
    check_promises(after, clustering.promises(before, clustered))
    assert any("clustered weights were written out to be quantised" in note.message for note in result.notes)
    if clustering.clusters == 16:
        assert nbytes(after) < 0.9 * nbytes(expected.module)
        assert {book.dtype.name for book in codebooks(after)} <= {"INT8", "UINT8"}
    counts = [cost(module) for module in (expected.module, after)]
    assert counts[0].parameters == counts[1].parameters
    assert counts[0].nonzero == counts[1].nonzero
    feeds = {"x": next(iter(context().split(None)))["x"][None]}
    outputs = [OrtRunner(module).run(feeds)["y"] for module in (expected.module, after)]
    assert np.array_equal(*outputs)


def test_blocks_of_weights_undo_clusters() -> None:
    assert Weights.breaks == ("clusters",)
    clustered = run(CHANNELS, network())
    result = Weights(min_elements=512).run(clustered.clone(), context())
    assert {"MatMulNBits"} <= {node.op_type for node in result.module.nodes()}


def test_a_broken_cluster_is_found() -> None:
    before = network()
    after = run(CHANNELS, before)
    promises = CHANNELS.promises(before, after)
    expand(after)
    weight = next(one for one in after.weights() if one.name == "conv")
    weight.replace(weight.numpy() + np.linspace(0, 1e-3, weight.size, dtype=np.float32).reshape(weight.shape))
    with pytest.raises(ContractError, match="weight `conv` was promised at most 16"):
        check_promises(after, promises)


@pytest.mark.parametrize("channels", [0, 1])
def test_values_are_counted_in_what_was_promised(channels: int) -> None:
    """Slices of `depth` have 25 elements, fewer than the 64 values: only the whole can break a promise on the whole."""
    before = network()
    clustering = KMeans(64 if channels == 0 else 8, channels=channels, min_elements=512)
    after = run(clustering, before)
    (promise,) = promises = clustering.promises(before, after)
    assert {name for name, _, _ in promise.slices} == ({name for name, _, _ in promise.weights} if channels else set())
    expand(after)
    check_promises(after, promises)
    weight = next(one for one in after.weights() if one.name == "depth")
    array = weight.numpy().copy()
    # One more value in one channel, which along other axes is one slice's only element of its kind.
    missing = np.setdiff1d(np.linspace(1, 2, array.size, dtype=np.float32), array)
    array[3].flat[:9] = missing[:9]
    weight.replace(array)
    with pytest.raises(ContractError, match=f"weight `depth` was promised at most {clustering.clusters}"):
        check_promises(after, promises)


def test_refuses_what_is_quantised_already() -> None:
    quantised = Dynamic().run(network(), context()).module
    with pytest.raises(PassError, match="the graph is quantised already: node") as caught:
        KMeans().run(quantised, context())
    assert caught.value.node
