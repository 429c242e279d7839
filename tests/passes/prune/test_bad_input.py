"""Every pruning pass on what models can be: old and new opsets, functions, branches, foreign operators, shared weights,
dynamic shapes. What can't be pruned is left alone, and said so.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from mopt.ir import from_proto, verify
from mopt.passes.cluster.kmeans import KMeans
from mopt.passes.contract import PassError
from mopt.passes.prune.channels import Channels
from mopt.passes.prune.heads import Heads
from mopt.passes.prune.magnitude import Magnitude
from mopt.passes.prune.nm import NM
from mopt.runtime.ort import OrtRunner
from mopt.values import NofM, Ratio
from onnx import numpy_helper

PASSES = {
    "channels": Channels(Ratio(0.5)),
    "heads": Heads(Ratio(0.5)),
    "nm": NM(NofM(2, 4)),
    "magnitude": Magnitude(Ratio(0.5)),
}
HEADS = {"s": [0, 0, 4, 3], "back": [0, 0, -1]}
ATTENTION = (
    "q0 = MatMul(x, wq) k0 = MatMul(x, wk) v0 = MatMul(x, wv) q1 = Reshape(q0, s) k1 = Reshape(k0, s) "
    "v1 = Reshape(v0, s) q = Transpose<perm = [0,2,1,3]>(q1) k = Transpose<perm = [0,2,3,1]>(k1) "
    "v = Transpose<perm = [0,2,1,3]>(v1) a = MatMul(q, k) p = Softmax<axis = 3>(a) c = MatMul(p, v) "
    "m = Transpose<perm = [0,2,1,3]>(c) f = Reshape(m, back) o = MatMul(f, wo) "
)
SHAPES = {"wq": (8, 12), "wk": (8, 12), "wv": (8, 12), "wo": (12, 8), "up": (8, 16), "down": (16, 8)}


def weights(shapes):
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def ran(operation, module, context, feeds=None):
    """The result of a pass, proved valid, and to give an output of the same shape."""
    before = module.clone()
    result = operation.run(module, context())
    assert result.modified
    assert verify(result.module) == []
    feeds = feeds or {"x": np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)}
    expected, got = (OrtRunner(one).run(feeds) for one in (before, result.module))
    for name, array in got.items():
        assert array.shape == expected[name].shape
        assert not np.array_equal(array, expected[name])
    return result


def sizes(module):
    return {weight.name: weight.shape for weight in module.weights()}


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 21, 24])
@pytest.mark.parametrize("name", PASSES)
def test_opsets(name, opset, module_of, context):
    body = ATTENTION + "h = MatMul(o, up) r = Relu(h) d = MatMul(r, down) y = Add(d, o)"
    module = module_of("(float[N,T,8] x) => (float[N,T,8] y)", body, weights(SHAPES), opset, HEADS)
    result = ran(PASSES[name], module, context)
    after = sizes(result.module)
    if name == "channels":
        assert (after["up"], after["wq"], after["wo"]) == ((8, 8), (8, 6), (6, 8))
    if name == "heads":
        assert (after["up"], after["wq"], after["wo"]) == ((8, 16), (8, 6), (6, 8))


@pytest.mark.parametrize("name", PASSES)
def test_foreign_operators_are_left_alone(name, context, module_of):
    body = ATTENTION + "h = MatMul(o, up) r = Relu(h) d = MatMul(r, down) e = MatMul(d, last) y = acme.Odd(e, own)"
    shapes = {**SHAPES, "last": (8, 8), "own": (8, 8)}
    module = module_of("(float[N,T,8] x) => (float[N,T,8] y)", body, weights(shapes), 17, HEADS)
    result = PASSES[name].run(module.clone(), context())
    assert verify(result.module) == []
    before, after = ({one.name: one.numpy() for one in each.weights()} for each in (module, result.module))
    np.testing.assert_array_equal(after["own"], before["own"])
    assert after["last"].shape[1] == 8
    assert [node.op_type for node in result.module.nodes()].count("Odd") == 1
    if name != "heads":
        assert any("Odd" in note.message and "left alone" in note.message for note in result.notes)


def with_function():
    """A block as a function of the model: its products read weights that are its arguments."""
    text = (
        '<ir_version: 9, opset_import: ["": 17, "mine": 1]> g (float[N,T,8] x) => (float[N,T,8] y) '
        "{ h = MatMul(x, up) b = mine.Block(h, down) r = MatMul(b, up) z = Relu(r) y = MatMul(z, end) } "
        '<domain: "mine", opset_import: ["": 17]> Block (a, w) => (c) { t = Relu(a) c = MatMul(t, w) }'
    )
    model = onnx.parser.parse_model(text)
    for name, array in weights({"up": (8, 16), "down": (16, 8), "end": (16, 8)}).items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    return from_proto(model)


@pytest.mark.parametrize("name", ["channels", "nm", "magnitude"])
def test_what_functions_touch_is_left_alone(name, context):
    module = with_function()
    before = {one.name: one.numpy() for one in module.weights()}
    if name == "channels":
        # `up` makes what the function reads, and is shared: neither of its uses can be cut.
        with pytest.raises(PassError, match=r"`mine\.Block`|Block"):
            PASSES[name].run(module, context())
        return
    result = PASSES[name].run(module, context())
    assert verify(result.module) == []
    after = {one.name: one.numpy() for one in result.module.weights()}
    np.testing.assert_array_equal(after["down"], before["down"])
    assert (after["end"] == 0).any()
    assert any("left alone" in note.message and "mine.Block" in note.message for note in result.notes)
    assert len(result.module.model.functions) == 1


BRANCHES = (
    "h = MatMul(x, up) r = Relu(h) d = MatMul(r, down) k = MatMul(d, wide) l = Relu(k) y0 = MatMul(l, narrow) "
    "y = If(flag) <then_branch = t () => (float[N,T,8] one) { m = MatMul(d, inner) one = Add(m, y0) }, "
    "else_branch = e () => (float[N,T,8] two) { two = Identity(y0) }>"
)


@pytest.mark.parametrize("name", ["channels", "nm", "magnitude"])
def test_what_branches_read_keeps_its_size(name, module_of, context):
    shapes = {"up": (8, 16), "down": (16, 8), "wide": (8, 16), "narrow": (16, 8), "inner": (8, 8)}
    module = module_of("(float[N,T,8] x, bool flag) => (float[N,T,8] y)", BRANCHES, weights(shapes), 17)
    x = np.random.default_rng(1).normal(size=(2, 5, 8)).astype(np.float32)
    result = ran(PASSES[name], module, context, {"x": x, "flag": np.array(True)})
    after = sizes(result.module)
    assert (after["down"][1], after["inner"]) == (8, (8, 8))
    if name == "channels":
        assert (after["up"], after["wide"]) == ((8, 8), (8, 8))
        assert any("left alone" in note.message for note in result.notes)
    else:
        # The weights of a branch are pruned as any other.
        inner = next(one.numpy() for one in result.module.weights() if one.name == "inner")
        assert (inner == 0).any()


@pytest.mark.parametrize("name", ["channels", "nm", "magnitude"])
def test_weights_that_two_layers_share(name, module_of, context):
    body = "a = MatMul(x, w) b = Relu(a) c = MatMul(b, v) d = MatMul(c, w) e = Relu(d) y = MatMul(e, v)"
    module = module_of("(float[N,T,8] x) => (float[N,T,8] y)", body, weights({"w": (8, 16), "v": (16, 8)}), 17)
    result = ran(PASSES[name], module, context)
    if name == "channels":
        assert sizes(result.module) == {"w": (8, 8), "v": (8, 8)}
    assert [weight.name for weight in result.module.weights()] == ["w", "v"]


@pytest.mark.parametrize("name", PASSES)
def test_every_dimension_dynamic(name, module_of, context):
    body = ATTENTION + "y = Relu(o)"
    shapes = {key: SHAPES[key] for key in ("wq", "wk", "wv", "wo")}
    module = module_of("(float[A,B,8] x) => (float[A,B,8] y)", body, weights(shapes), 17, HEADS)
    result = ran(PASSES[name], module, context)
    assert result.module.dynamic_dims() == ("A", "B")
    for batch, length in ((1, 1), (3, 7)):
        feeds = {"x": np.ones((batch, length, 8), np.float32)}
        assert OrtRunner(result.module).run(feeds)["y"].shape == (batch, length, 8)


@pytest.mark.parametrize("name", PASSES)
def test_a_model_without_weights(name, module_of, context):
    module = module_of("(float[N,8] x) => (float[N,8] y)", "y = Relu(x)", {})
    with pytest.raises(PassError):
        PASSES[name].run(module, context())


@pytest.mark.parametrize("name", PASSES)
def test_what_is_quantised_already_is_refused_with_the_place(name, module_of, context):
    body = ATTENTION + "i, t, z = DynamicQuantizeLinear(o) d = DequantizeLinear(i, t, z) h = MatMul(d, up) "
    body += "r = Relu(h) y = MatMul(r, down)"
    module = module_of("(float[N,T,8] x) => (float[N,T,8] y)", body, weights(SHAPES), 17, HEADS)
    place = next(node.name for node in module.nodes() if node.op_type == "DynamicQuantizeLinear")
    with pytest.raises(PassError, match=f"quantised already: node `{place}` is a DynamicQuantizeLinear") as raised:
        PASSES[name].run(module, context())
    assert (raised.value.node, bool(raised.value.help)) == (place, True)


@pytest.mark.parametrize("name", PASSES)
def test_clustered_weights_are_named_with_the_way_out(name, module_of, context):
    body = ATTENTION + "h = MatMul(o, up) y = MatMul(h, down)"
    shapes = {**SHAPES, "up": (8, 128), "down": (128, 8)}
    module = module_of("(float[N,T,8] x) => (float[N,T,8] y)", body, weights(shapes), 17, HEADS)
    clustered = KMeans(16, only=("up", "down"), min_elements=512).run(module, context()).module
    if name in ("channels", "heads"):
        with pytest.raises(PassError, match="codebooks") as raised:
            PASSES[name].run(clustered, context())
        assert "cluster.expand" in str(raised.value.help)
        return
    before = {one.name: one.numpy() for one in clustered.weights()}
    result = PASSES[name].run(clustered.clone(), context())
    after = {one.name: one.numpy() for one in result.module.weights()}
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changed == {"wq", "wk", "wv", "wo"}
    assert any("cluster.expand" in note.message for note in result.notes)
