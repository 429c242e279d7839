"""Weights stored sparse: the file is smaller, loads, folds, and gives the same bits."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mopt.ir import from_proto, load, to_proto, verify
from mopt.rewrite.sparse_storage import _gaps, store_sparse
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_target import OrtTarget
from onnx import numpy_helper


def thinned(shape, zeros, dtype=np.float32, seed=0):
    random = np.random.default_rng(seed)
    array = random.normal(size=shape).astype(dtype)
    array[random.random(shape) < zeros] = 0
    return array


def network(v, opset=17, w=None):
    """A convolution, a product with `v` and an LSTM-free end; `v` is [512, n]."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[N,8,8,8] x) => (float[N,m] y) '
        "{ h = Conv(x, w) f = Flatten(h) y = MatMul(f, v) }"
    )
    w = thinned((8, 8, 5, 5), 0.6) if w is None else w
    for name, array in (("w", w), ("v", v)):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return from_proto(model)


def same_bits(before, after):
    feeds = seeded_inputs(before)
    expected, got = OrtRunner(before).run(feeds), OrtRunner(after).run(feeds)
    return all(got[name].tobytes() == array.tobytes() for name, array in expected.items())


@pytest.mark.parametrize(
    ("zeros", "form"), [(0.3, "bits"), (0.5, "bits"), (0.9, "gaps"), (0.999, "gaps"), (1.0, "gaps")]
)
@pytest.mark.parametrize("columns", [64, 65])
def test_each_weight_takes_the_smaller_form(zeros, form, columns):
    module = network(thinned((128, columns), zeros))
    packed = module.clone()
    found = {stored.name: stored for stored in store_sparse(packed)}
    assert found["v"].form == form
    assert verify(packed) == []
    assert same_bits(module, packed)
    size = {one: len(to_proto(one).SerializeToString()) for one in (module, packed)}
    told = sum(stored.before - stored.after for stored in found.values())
    assert size[packed] <= size[module] - told


def test_seventy_percent_of_zeros_take_less_than_two_fifths(tmp_path):
    module = network(thinned((128, 4096), 0.7))
    folders = [tmp_path / name for name in ("dense", "sparse")]
    for folder in folders:
        folder.mkdir()
    dense, sparse = OrtTarget().emit(module, folders[0]), OrtTarget(sparse=True).emit(module, folders[1])
    assert sparse.bytes < 0.37 * dense.bytes
    assert sparse.compressed < 0.95 * dense.compressed
    assert "stored sparse" in sparse.notes[0]
    feeds = seeded_inputs(module)
    (expected,), (got,) = (OrtTarget().open(one).run(feeds).values() for one in (dense, sparse))
    assert got.tobytes() == expected.tobytes()
    assert verify(load(sparse.path)) == []


def test_onnxruntime_folds_it_all(tmp_path):
    packed = network(thinned((128, 64), 0.6), w=thinned((8, 8, 5, 5), 0.93))
    assert {stored.form for stored in store_sparse(packed)} == {"bits", "gaps"}
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(tmp_path / "folded.onnx")
    ort.InferenceSession(to_proto(packed).SerializeToString(), settings, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node}
    assert not left & {"Cast", "CumSum", "ScatterND", "Gather", "ConstantOfShape", "Slice", "Mul"}


@pytest.mark.parametrize("opset", [7, 10])
def test_old_opsets_stay_dense(opset):
    module = network(thinned((128, 64), 0.9), opset)
    assert store_sparse(module) == []


@pytest.mark.parametrize("opset", [11, 13, 18, 21, 23])
def test_newer_opsets(opset):
    module = network(thinned((128, 64), 0.8), opset)
    packed = module.clone()
    assert len(store_sparse(packed)) == 2
    assert verify(packed) == []
    assert same_bits(module, packed)


def test_dense_and_small_weights_stay_as_they_are():
    module = network(thinned((128, 64), 0.0), w=thinned((8, 8, 3, 3), 0.9))
    before = to_proto(module).SerializeToString(deterministic=True)
    assert store_sparse(module) == []
    assert to_proto(module).SerializeToString(deterministic=True) == before


def test_every_bit_is_kept():
    """Negative zeros, infinities, NaN; long runs of zeros at both ends; half precision."""
    array = np.zeros(4096, np.float32)
    array[[600, 601, 1500, 3000]] = [-0.0, np.inf, np.nan, 1e-45]
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[4096] y, float16[64,64] z) '
        "{ y = Add(x, a) c = CastLike(x, b) z = Add(c, b) }"
    )
    half = thinned((64, 64), 0.9, np.float16)
    for name, values in (("a", array), ("b", half)):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    packed = from_proto(model)
    assert len(store_sparse(packed)) == 2
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = ""
    session = ort.InferenceSession(to_proto(packed).SerializeToString(), providers=["CPUExecutionProvider"])
    y, z = session.run(None, {"x": np.array([-0.0], np.float32)})
    np.testing.assert_array_equal(y, array)
    assert z.tobytes() == (half + np.float16(0)).tobytes()


def test_two_runs_give_identical_bits():
    first, second = (network(thinned((128, 64), 0.8)) for _ in range(2))
    store_sparse(first)
    store_sparse(second)
    assert to_proto(first).SerializeToString(deterministic=True) == to_proto(second).SerializeToString(
        deterministic=True
    )


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 5000), max_size=30))
def test_gaps_lead_to_every_place_and_repeat_none(places):
    wanted = np.array(sorted(places), np.int64)
    stops = np.cumsum(_gaps(wanted), dtype=np.int64)
    assert set(wanted) <= set(stops.tolist())
    assert len(set(stops.tolist())) == len(stops)
    assert len(stops) == 0 or stops[-1] == wanted[-1]
