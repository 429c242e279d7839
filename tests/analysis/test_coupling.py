"""Axis coupling, operator by operator: the groups found, and the proof that they are right.

The proof is a cut: where nothing reads a channel any more (every weight that multiplies it is zero), taking it out of
all the axes of its group must change no output, and must leave a graph that is valid and runs.
"""

from __future__ import annotations

import json

import networkx
import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mopt.analysis.coupling import Axis, collect, couplings, groups
from mopt.analysis.coupling.elements import Elements
from mopt.analysis.coupling.reshape import align
from mopt.ir import from_proto, verify
from mopt.passes.prune.channels_cut import cut
from mopt.runtime.ort import OrtRunner
from onnx import numpy_helper


def network(signature, body, weights, opset=17, ints=()):
    """A module from ONNX's text form; `weights` are shapes of random floats, `ints` steer operators."""
    random = np.random.default_rng(7)
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g {signature} {{ {body} }}')
    for name, shape in weights.items():
        array = random.normal(size=shape).astype(np.float32)
        if name.startswith("var"):
            array = np.abs(array) + 0.5
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for name, value in dict(ints).items():
        kind = np.float32 if name == "scales" else np.int64
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, kind), name))
    return from_proto(model)


IMAGE = "(float[N,3,8,8] x) => (float[N,5,a,b] y)"
LAST = {"w9": (5, 8, 1, 1)}
TOKENS = "(float[N,T,6] x) => (float[N,T,5] y)"

CASES = {
    "conv": (
        IMAGE,
        "h = Conv(x, w, b) r = Relu(h) y = Conv(r, w9)",
        {"w": (8, 3, 3, 3), "b": (8,), **LAST},
        {},
        {8: 1},
    ),
    "residual": (
        IMAGE,
        "s = Conv(x, w1) h = Conv(s, w2) t = Add(h, s) r = Relu(t) y = Conv(r, w9)",
        {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), **LAST},
        {},
        {8: 1},
    ),
    "batch norm": (
        IMAGE,
        "h = Conv(x, w) n = BatchNormalization(h, g, b, m, var) y = Conv(n, w9)",
        {"w": (8, 3, 1, 1), "g": (8,), "b": (8,), "m": (8,), "var": (8,), **LAST},
        {},
        {8: 1},
    ),
    "depthwise with a multiplier": (
        IMAGE,
        "h = Conv(x, w) d = Conv<group = 4>(h, wd) y = Conv(d, w9)",
        {"w": (4, 3, 1, 1), "wd": (8, 1, 3, 3), **LAST},
        {},
        {4: 1},
    ),
    "grouped": (
        IMAGE,
        "h = Conv(x, w) d = Conv<group = 2>(h, wd) y = Conv(d, w9)",
        {"w": (6, 3, 1, 1), "wd": (8, 3, 3, 3), **LAST},
        {},
        {3: 2, 4: 2},
    ),
    "transposed": (
        IMAGE,
        "h = Conv(x, w) d = ConvTranspose(h, wt, b) y = Conv(d, w9)",
        {"w": (6, 3, 1, 1), "wt": (6, 8, 2, 2), "b": (8,), **LAST},
        {},
        {6: 1, 8: 1},
    ),
    "depthwise transposed": (
        IMAGE,
        "h = Conv(x, w) d = ConvTranspose<group = 8>(h, wt) y = Conv(d, w9)",
        {"w": (8, 3, 1, 1), "wt": (8, 1, 2, 2), **LAST},
        {},
        {8: 1},
    ),
    "grouped transposed": (
        IMAGE,
        "h = Conv(x, w) d = ConvTranspose<group = 2>(h, wt) y = Conv(d, w9)",
        {"w": (6, 3, 1, 1), "wt": (6, 4, 2, 2), **LAST},
        {},
        {3: 2, 4: 1},
    ),
    "concat": (
        IMAGE,
        "h = Conv(x, w1) k = Conv(x, w2) c = Concat<axis = 1>(h, k) y = Conv(c, w9)",
        {"w1": (5, 3, 1, 1), "w2": (3, 3, 1, 1), **LAST},
        {},
        {5: 1, 3: 1},
    ),
    "concat with an input": (
        IMAGE,
        "h = Conv(x, w1) c = Concat<axis = 1>(x, h) y = Conv(c, w9)",
        {"w1": (5, 3, 1, 1), **LAST},
        {},
        {5: 1},
    ),
    "split": (
        IMAGE,
        "h = Conv(x, w1) p, q = Split<axis = 1>(h, sizes) d = Conv(q, w2) k = Concat<axis = 1>(p, d) y = Conv(k, w9)",
        {"w1": (9, 3, 1, 1), "w2": (2, 3, 1, 1), **LAST},
        {"sizes": [6, 3]},
        {6: 1, 3: 1, 2: 1},
    ),
    "gated halves": (
        IMAGE,
        "h = Conv(x, w1) p, q = Split<axis = 1>(h) s = Sigmoid(q) k = Mul(p, s) y = Conv(k, w9)",
        {"w1": (16, 3, 1, 1), **LAST},
        {},
        {8: 2},
    ),
    "slice": (
        IMAGE,
        "h = Conv(x, w1) p = Slice(h, two, far, one) d = Conv(h, w2) k = Add(p, d) y = Conv(k, w9)",
        {"w1": (10, 3, 1, 1), "w2": (8, 10, 1, 1), **LAST},
        {"two": [2], "far": [100], "one": [1]},
        {2: 1, 8: 1},
    ),
    "pad": (
        IMAGE,
        "h = Conv(x, w1) p = Pad(h, pads) y = Conv(p, w9)",
        {"w1": (6, 3, 1, 1), **LAST},
        {"pads": [0, 1, 0, 0, 0, 1, 0, 0]},
        {6: 1},
    ),
    "squeeze and excite": (
        IMAGE,
        "h = Conv(x, w1) g = GlobalAveragePool(h) a = Conv(g, w2) r = Relu(a) e = Conv(r, w3) s = HardSigmoid(e) "
        "m = Mul(h, s) y = Conv(m, w9)",
        {"w1": (8, 3, 1, 1), "w2": (2, 8, 1, 1), "w3": (8, 2, 1, 1), **LAST},
        {},
        {8: 1, 2: 1},
    ),
    "flatten": (
        "(float[N,3,8,8] x) => (float[N,5] y)",
        "h = Conv(x, w) p = MaxPool<kernel_shape = [4,4], strides = [4,4]>(h) f = Flatten(p) "
        "y = Gemm<transB = 1>(f, w2, b)",
        {"w": (6, 3, 1, 1), "w2": (5, 24), "b": (5,)},
        {},
        {6: 1},
    ),
    "reshape to one column": (
        "(float[N,3,8,8] x) => (float[N,5] y)",
        "h = Conv(x, w) g = ReduceMean<axes = [2,3], keepdims = 0>(h) f = Reshape(g, shape) s = Squeeze(f, axes) "
        "y = MatMul(s, w2)",
        {"w": (6, 3, 1, 1), "w2": (6, 5)},
        {"shape": [-1, 6, 1], "axes": [2]},
        {6: 1},
    ),
    "depth to space": (
        IMAGE,
        "h = Conv(x, w) d = DepthToSpace<blocksize = 2, mode = \"CRD\">(h) y = Conv(d, w9)",
        {"w": (32, 3, 1, 1), **LAST},
        {},
        {8: 4},
    ),
    "space to depth": (
        IMAGE,
        "h = Conv(x, w) d = SpaceToDepth<blocksize = 2>(h) y = Conv(d, w9)",
        {"w": (4, 3, 1, 1), "w9": (5, 16, 1, 1)},
        {},
        {4: 1},
    ),
    "resize": (
        IMAGE,
        "h = Conv(x, w) d = Resize<mode = \"nearest\">(h, , scales) y = Conv(d, w9)",
        {"w": (8, 3, 1, 1), **LAST},
        {"scales": [1, 1, 2, 2]},
        {8: 1},
    ),
    "resize to a size": (
        "(float[2,3,8,8] x) => (float[2,5,16,16] y)",
        "h = Conv(x, w) d = Resize<mode = \"nearest\">(h, , , to) y = Conv(d, w9)",
        {"w": (8, 3, 1, 1), **LAST},
        {"to": [2, 8, 16, 16]},
        {8: 1},
    ),
    "a mask made of a shape": (
        TOKENS,
        "h = MatMul(x, w) c = ConstantOfShape(s) k = Add(h, c) y = MatMul(k, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {"s": [1, 1, 8]},
        {8: 1},
    ),
    "heads": (
        TOKENS,
        "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) q1 = Reshape(q0, s) k1 = Reshape(k0, s) "
        "v1 = Reshape(v0, s) q = Transpose<perm = [0,2,1,3]>(q1) k = Transpose<perm = [0,2,3,1]>(k1) "
        "v = Transpose<perm = [0,2,1,3]>(v1) a = MatMul(q, k) p = Softmax<axis = -1>(a) c = MatMul(p, v) "
        "m = Transpose<perm = [0,2,1,3]>(c) f = Reshape(m, back) y = MatMul(f, wo)",
        {"wq": (6, 12), "wk": (6, 12), "wv": (6, 12), "wo": (12, 5)},
        {"s": [0, 0, 4, 3], "back": [0, -1, 12]},
        {4: 3},
    ),
    "heads merged into the batch": (
        "(float[N,7,6] x) => (float[N,7,5] y)",
        "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) q1 = Reshape(q0, s) k1 = Reshape(k0, s) "
        "v1 = Reshape(v0, s) q2 = Transpose<perm = [0,2,1,3]>(q1) k2 = Transpose<perm = [0,2,3,1]>(k1) "
        "v2 = Transpose<perm = [0,2,1,3]>(v1) q = Reshape(q2, m1) k = Reshape(k2, m2) v = Reshape(v2, m1) "
        "a = MatMul(q, k) p = Softmax<axis = -1>(a) c = MatMul(p, v) d = Reshape(c, apart) "
        "m = Transpose<perm = [0,2,1,3]>(d) f = Reshape(m, back) y = MatMul(f, wo)",
        {"wq": (6, 12), "wk": (6, 12), "wv": (6, 12), "wo": (12, 5)},
        {"s": [0, 0, 4, 3], "m1": [-1, 7, 3], "m2": [-1, 3, 7], "apart": [-1, 4, 7, 3], "back": [0, 0, 12]},
        {4: 3},
    ),
    "heads merged into a batch that comes second": (
        "(float[7,N,6] x) => (float[7,N,5] y)",
        "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) q1 = Reshape(q0, s) k1 = Reshape(k0, s) "
        "v1 = Reshape(v0, s) q = Transpose<perm = [1,0,2]>(q1) k = Transpose<perm = [1,2,0]>(k1) "
        "v = Transpose<perm = [1,0,2]>(v1) a = MatMul(q, k) p = Softmax<axis = -1>(a) c = MatMul(p, v) "
        "m = Transpose<perm = [1,0,2]>(c) f = Reshape(m, back) g = MatMul(f, wo) y = Reshape(g, last)",
        {"wq": (6, 12), "wk": (6, 12), "wv": (6, 12), "wo": (12, 5)},
        {"s": [7, -1, 3], "back": [-1, 12], "last": [7, -1, 5]},
        {4: 3},
    ),
    "heads that are the outer part of an axis merged with the batch": (
        "(float[N,7,6] x) => (float[N,7,5] y)",
        "h = MatMul(x, w) r = Reshape(h, s) t = Transpose<perm = [2,0,1,3]>(r) m = Reshape(t, merge) n = Relu(m) "
        "u = Reshape(n, apart) v = Transpose<perm = [1,2,0,3]>(u) f = Reshape(v, back) y = MatMul(f, w2)",
        {"w": (6, 12), "w2": (12, 5)},
        {"s": [0, 0, 4, 3], "merge": [-1, 7, 3], "apart": [4, -1, 7, 3], "back": [0, 0, 12]},
        {3: 4},
    ),
    "fused query, key and value": (
        TOKENS,
        "h = MatMul(x, w) r = Reshape(h, s) t = Transpose<perm = [2,0,3,1,4]>(r) q = Gather<axis = 0>(t, i0) "
        "k0 = Gather<axis = 0>(t, i1) v = Gather<axis = 0>(t, i2) k = Transpose<perm = [0,1,3,2]>(k0) a = MatMul(q, k) "
        "p = Softmax<axis = -1>(a) c = MatMul(p, v) m = Transpose<perm = [0,2,1,3]>(c) f = Reshape(m, back) "
        "y = MatMul(f, wo)",
        {"w": (6, 36), "wo": (12, 5)},
        {"s": [0, 0, 3, 4, 3], "back": [0, -1, 12], "i0": 0, "i1": 1, "i2": 2},
        {4: 9},
    ),
    "lstm in both directions": (
        "(float[T,N,6] x) => (float[T,N,5] y)",
        "h, hn = LSTM<hidden_size = 7, direction = \"bidirectional\">(x, w, r, b) t = Transpose<perm = [0,2,1,3]>(h) "
        "f = Reshape(t, s) y = MatMul(f, w2)",
        {"w": (2, 28, 6), "r": (2, 28, 7), "b": (2, 56), "w2": (14, 5)},
        {"s": [0, 0, -1]},
        {7: 1},
    ),
    "gru after a projection": (
        "(float[T,N,6] x) => (float[T,N,5] y)",
        "p = MatMul(x, w0) h = GRU<hidden_size = 7, linear_before_reset = 1>(p, w, r, b) s = Squeeze(h, one) "
        "y = MatMul(s, w2)",
        {"w0": (6, 4), "w": (1, 21, 4), "r": (1, 21, 7), "b": (1, 42), "w2": (7, 5)},
        {"one": [1]},
        {4: 1, 7: 1},
    ),
    "embedding": (
        "(int64[N,T] x) => (float[N,T,5] y)",
        "e = Gather(table, x) y = MatMul(e, w)",
        {"table": (20, 8), "w": (8, 5)},
        {},
        {8: 1},
    ),
    "einsum": (
        TOKENS,
        "h = Einsum<equation = \"btd,hde->bthe\">(x, w) y = Einsum<equation = \"bthe,heo->bto\">(h, w2)",
        {"w": (4, 6, 3), "w2": (4, 3, 5)},
        {},
        {4: 1, 3: 1},
    ),
    "shared weights": (
        TOKENS,
        "h = MatMul(x, w) k = MatMul(h, v) l = Relu(k) m = MatMul(l, v) y = MatMul(m, w2)",
        {"w": (6, 8), "v": (8, 8), "w2": (8, 5)},
        {},
        {8: 1},
    ),
    "expanded": (
        TOKENS,
        "h = MatMul(x, w) e = Expand(t, s) k = Add(h, e) y = MatMul(k, w2)",
        {"w": (6, 8), "t": (1, 1), "w2": (8, 5)},
        {"s": [1, 1, 8]},
        {8: 1},
    ),
}  # fmt: skip


OLD = {
    "split": (
        "h = Conv(x, w1) p, q = Split<axis = 1, split = [6, 3]>(h) d = Conv(q, w2) k = Concat<axis = 1>(p, d) "
        "y = Conv(k, w9)",
        {"w1": (9, 3, 1, 1), "w2": (2, 3, 1, 1), **LAST},
        {6: 1, 3: 1, 2: 1},
    ),
    "slice": (
        "h = Conv(x, w1) p = Slice<axes = [1], starts = [2], ends = [100]>(h) d = Conv(h, w2) k = Add(p, d) "
        "y = Conv(k, w9)",
        {"w1": (10, 3, 1, 1), "w2": (8, 10, 1, 1), **LAST},
        {2: 1, 8: 1},
    ),
    "pad, squeeze and unsqueeze": (
        "h = Conv(x, w1) p = Pad<pads = [0, 1, 0, 0, 0, 1, 0, 0]>(h) g = GlobalMaxPool(p) "
        "s = Squeeze<axes = [2, 3]>(g) u = Unsqueeze<axes = [2, 3]>(s) y = Conv(u, w9)",
        {"w1": (6, 3, 1, 1), **LAST},
        {6: 1},
    ),
    "upsample": (
        'h = Conv(x, w1) u = Upsample<mode = "nearest">(h, scales) y = Conv(u, w9)',
        {"w1": (8, 3, 1, 1), **LAST},
        {8: 1},
    ),
}
"""The forms of operators before opset 10."""


@pytest.mark.parametrize("case", OLD)
@pytest.mark.parametrize("opset", [7, 9])
def test_old_opsets(case, opset):
    body, weights, expected = OLD[case]
    steering = {"scales": [1, 1, 2, 2]} if "scales" in body else {}
    if opset == 7 and steering:
        body, steering = body.replace('">(h, scales)', '", scales = [1.0, 1.0, 2.0, 2.0]>(h)'), {}
    module = network(IMAGE, body, weights, opset, steering)
    found = [group for group in groups(module) if group.reason is None]
    assert {group.channels: group.unit for group in found} == expected
    check_cut(module, 0.4)


@pytest.mark.parametrize("opset", [21, 23, 24])
def test_new_opsets(opset):
    body = (
        "h = Conv(x, w) n = GroupNormalization<num_groups = 2>(h, g, b) p, q = Split<axis = 1, num_outputs = 2>(n) "
        "k = Add(p, q) m = ReduceMean<keepdims = 1>(k, axes) r = Relu(m) y = Conv(r, w9)"
    )
    weights = {"w": (8, 3, 1, 1), "g": (8,), "b": (8,), "w9": (5, 4, 1, 1)}
    # onnx can't infer what a GroupNormalization returns: exporters store it.
    stored = (
        "<float[N,8,8,8] n, float[N,4,8,8] p, float[N,4,8,8] q, float[N,4,8,8] k, float[N,4,1,1] m, float[N,4,1,1] r>"
    )
    module = network(f"{IMAGE} {stored}", body, weights, opset, {"axes": [2, 3]})
    (group,) = [group for group in groups(module) if group.reason is None]
    assert (group.channels, group.unit) == (4, 2)
    coupled = couplings(module)
    (group,) = [group for group in collect(coupled) if group.reason is None]
    cut(module, coupled, group.atoms[:1])
    assert verify(module) == []
    assert next(iter(OrtRunner(module).run(feeds(module)).values())).shape == (2, 5, 1, 1)


def build(case):
    signature, body, weights, ints, expected = CASES[case]
    module = network(signature, body, weights, 13 if "Split" in body else 17, ints)
    return module, expected


def zero_readers(module, found, picks):
    """Make every weight that multiplies the picked channels zero there."""
    weights = {weight.value: weight for weight in module.weights()}
    for group, pick in zip(found, picks, strict=True):
        readers = [member for member in group.members if "in" in member.roles]
        assert readers, f"nothing reads {group.name}"
        for member in readers:
            array = weights[member.value].numpy().copy()
            lost = member.indices[np.isin(member.atoms, pick)]
            array[(slice(None),) * member.axis + (lost,)] = 0
            weights[member.value].replace(array)


def feeds(module, seed=3):
    random = np.random.default_rng(seed)
    fed = {}
    for port in module.inputs:
        shape = [dim if isinstance(dim, int) else 2 for dim in port.shape]
        integers = port.dtype == "i64"
        fed[port.name] = random.integers(0, 20, shape) if integers else random.normal(size=shape).astype(np.float32)
    return fed


def check_cut(module, share, seed=0):
    """Cut a share of every group that can be cut, after making its readers zero: nothing may change."""
    coupled = couplings(module)
    found = [group for group in collect(coupled) if group.reason is None and group.channels > 1]
    random = np.random.default_rng(seed)
    picks = [
        np.sort(random.permutation(group.channels)[: max(1, min(group.channels - 1, round(share * group.channels)))])
        for group in found
    ]
    zero_readers(module, found, picks)
    fed = feeds(module)
    before = OrtRunner(module).run(fed)
    interface = [str(port) for port in (*module.inputs, *module.outputs)]
    smaller = module.clone()
    again = couplings(smaller)
    assert [group.name for group in collect(again)] == [group.name for group in collect(coupled)]
    fresh = {group.name: group for group in collect(again)}
    cut(smaller, again, np.concatenate([fresh[g.name].atoms[p] for g, p in zip(found, picks, strict=True)]))
    assert verify(smaller) == []
    assert [str(port) for port in (*smaller.inputs, *smaller.outputs)] == interface
    after = OrtRunner(smaller).run(fed)
    for name, expected in before.items():
        assert expected.std() > 1e-4
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    return smaller


@pytest.mark.parametrize("case", CASES)
def test_groups_are_found_and_can_be_cut(case):
    module, expected = build(case)
    found = [group for group in groups(module) if group.reason is None]
    assert {group.channels: group.unit for group in found} == expected
    weights = {weight.name: weight.size for weight in module.weights()}
    smaller = check_cut(module, 0.4)
    after = {weight.name: weight.size for weight in smaller.weights()}
    for group in found:
        for member in group.members:
            assert after[member.value.name] < weights[member.value.name]


@settings(max_examples=25, deadline=None)
@given(case=st.sampled_from(sorted(CASES)), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_any_share_can_be_cut(case, share, seed):
    check_cut(build(case)[0], share, seed)


REASONS = {
    "the output": (TOKENS, "y = MatMul(x, w)", {"w": (6, 5)}, {}, "output `y` of the model"),
    "softmax over channels": (
        TOKENS,
        "h = MatMul(x, w) s = Softmax<axis = -1>(h) y = MatMul(s, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {},
        "Softmax",
    ),
    "an operator that is not followed": (
        TOKENS,
        "h = MatMul(x, w) s = CumSum(h, axis) y = MatMul(s, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {"axis": 1},
        "operator CumSum",
    ),
    "a residual sum with an input": (
        "(float[N,T,6] x) => (float[N,T,5] y)",
        "h = MatMul(x, w) s = Add(h, x) y = MatMul(s, w2)",
        {"w": (6, 6), "w2": (6, 5)},
        {},
        "input `x` of the model",
    ),
    "neighbouring channels": (
        IMAGE,
        "h = Conv(x, w) n = LRN<size = 3>(h) y = Conv(n, w9)",
        {"w": (8, 3, 1, 1), **LAST},
        {},
        "neighbouring channels",
    ),
    "a size read at run time": (
        TOKENS,
        "h = MatMul(x, w) s = Shape(h) c = Cast<to = 1>(s) m = ReduceProd(c) k = Div(h, m) y = MatMul(k, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {},
        "read by Shape",
    ),
    "two axes at once": (
        IMAGE,
        "h = Conv(x, w) r = Reshape(h, s) p = Softmax<axis = 1>(r) b = Reshape(p, t) y = Conv(b, w9)",
        {"w": (8, 3, 1, 1), **LAST},
        {"s": [-1, 16, 32], "t": [-1, 8, 8, 8]},
        "is not followed",
    ),
    "a subgraph": (
        "(float[N,T,6] x, bool c) => (float[N,T,5] y)",
        "h = MatMul(x, w) s = If(c) <then_branch = a () => (float[p,q,o] u) { u = Relu(h) }, "
        "else_branch = e () => (float[p,q,o] v) { v = Neg(h) }> y = MatMul(s, w2)",
        {"w": (6, 8), "w2": (8, 5)},
        {},
        "holds graphs of its own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REASONS)
def test_what_cannot_be_cut_says_why(case):
    signature, body, weights, ints, reason = REASONS[case]
    found = groups(network(signature, body, weights, 17, ints))
    assert found
    assert reason in (found[0].reason or "")


def test_custom_operators_are_left_alone():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]> g (float[N,6] x) => (float[N,5] y) '
        "{ h = MatMul(x, w) s = acme.Mystery(h) y = MatMul(s, w2) }"
    )
    for name, shape in (("w", (6, 8)), ("w2", (8, 5))):
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    (made, *_) = groups(from_proto(model))
    assert "acme.Mystery" in (made.reason or "")


def test_the_graph_of_axes():
    module, _ = build("residual")
    graph = couplings(module).graph
    names = {Axis(name, 1) for name in ("s", "h", "t", "r")} | {Axis("w1", 0), Axis("w2", 0), Axis("w2", 1)}
    assert names <= networkx.node_connected_component(graph, Axis("w9", 1))
    assert Axis("x", 1) not in networkx.node_connected_component(graph, Axis("w9", 1))
    assert graph.nodes[Axis("s", 1)] == {"size": 8}


def test_a_group_as_data_and_as_text():
    (stream, last) = groups(build("residual")[0])
    data = json.loads(json.dumps(stream.to_json()))
    assert data["channels"] == 8
    assert data["reason"] is None
    assert {(weight["name"], weight["axis"]) for weight in data["weights"]} == {
        ("w1", 0), ("w2", 0), ("w2", 1), ("w9", 1)
    }  # fmt: skip
    assert "8 channels" in str(stream)
    assert str(last).endswith("output `y` of the model")


def test_groups_leave_the_module_alone():
    module, _ = build("residual")
    before = module.revision
    groups(module)
    assert module.revision == before


@settings(max_examples=100, deadline=None)
@given(
    pairs=st.lists(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), min_size=1), max_size=5),
    fixed=st.lists(st.integers(0, 19), max_size=3),
)
def test_sets_agree_with_connected_components(pairs, fixed):
    elements = Elements(20)
    graph = networkx.Graph()
    graph.add_nodes_from(range(20))
    if fixed:
        elements.fix(np.array(fixed), "why")
    for batch in pairs:
        elements.union(np.array([a for a, _ in batch]), np.array([b for _, b in batch]))
        graph.add_edges_from(batch)
    every = np.arange(20)
    for component in networkx.connected_components(graph):
        assert set(elements.find(every)[list(component)]) == {min(component)}
        expected = bool(component & set(fixed))
        assert set(elements.is_fixed(every)[list(component)]) == {expected}
        assert (elements.reason(min(component)) == "why") == expected


@pytest.mark.parametrize(
    ("before", "after", "segments", "left"),
    [
        (["N", 384], ["N", 12, 32], [([0], [0]), ([1], [1, 2])], []),
        (["N", 8, 4, 4], ["N", 128], [([0], [0]), ([1, 2, 3], [1])], []),
        (["N", 1, 6], ["N", 6, 1, 1], [([0], [0]), ([2], [1])], []),
        (["a", 6], ["b", 2, 3], [([1], [1, 2])], [0]),
        ([4, 6], [8, 3], [], [0, 1]),
        ([2, 6, 5], [2, 2, 3, 5], [([0], [0]), ([1], [1, 2]), ([2], [3])], []),
    ],
)
def test_axes_of_a_reshape_are_aligned(before, after, segments, left):
    found, over, _ = align(before, after)
    assert sorted(found) == sorted(segments)
    assert sorted(over) == left
