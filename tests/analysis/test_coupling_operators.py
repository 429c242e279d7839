"""Axis coupling, operator by operator: the groups found, and the proof that they are right.

The proof is a cut: where nothing reads a channel any more (every weight that multiplies it is zero), taking it out of
all the axes of its group must change no output, and must leave a graph that is valid and runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mopt.analysis.coupling import collect, couplings, groups
from mopt.ir import verify
from mopt.passes.prune.channels_cut import cut
from mopt.runtime.ort import OrtRunner

sys.path.insert(0, str(Path(__file__).parent))

from coupling_networks import IMAGE, LAST, TOKENS, network

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
    "expanded, as PyTorch says which axes stay": (
        TOKENS,
        "h = MatMul(x, w) n = Shape<start = 0, end = 1>(h) m = Concat<axis = 0>(n, keep) q = Equal(m, minus) "
        "s = Where(q, one, m) e = Expand(t, s) k = Concat<axis = 1>(e, h) y = MatMul(k, w2)",
        {"w": (6, 8), "t": (1, 1, 8), "w2": (8, 5)},
        {"keep": [-1, -1], "minus": [-1, -1, -1], "one": [1, 1, 1]},
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
