"""Corrections after cutting channels: exact where what was cut can be made up for, harmless where it can't."""

from __future__ import annotations

import importlib.util
import io
import warnings
from functools import cache
from pathlib import Path

import mopt.recipes
import numpy as np
import onnx
import pytest
import torch
from mopt.ir import from_proto, verify
from mopt.passes.contract import PassError
from mopt.passes.prune.channels import Channels
from mopt.passes.simplify.rules import Rules
from mopt.runtime.data.splits import Samples
from mopt.runtime.judge.evaluate import evaluate
from mopt.runtime.judge.metrics import CharacterErrorRate
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, Ratio

RANDOM = np.random.default_rng(5)
DATA = DataRef("samples")


def normal(*shape):
    return RANDOM.normal(size=shape) / 2


def signs(*shape):
    """Weights of one magnitude: what reads them finds no channel more important than another."""
    return RANDOM.choice([-0.5, 0.5], size=shape)


def echoed(array, axis, every=2):
    """Half of an axis is a fainter copy of the other half: it is what goes, and can be made up for."""
    size = array.shape[axis] // every
    whole = np.take(array, range(size), axis)
    return np.concatenate([whole, 0.3 * whole], axis)


IMAGE, TOKENS = "(float[N,3,8,8] x) => (float[N,5,a,b] y)", "(float[N,T,6] x) => (float[N,T,5] y)"
NETWORKS = {
    "conv": (
        IMAGE,
        "h = Conv(x, w) r = Relu(h) y = Conv<pads = [1,0,2,1], strides = [2,1], dilations = [1,2]>(r, v)",
        {"w": echoed(normal(8, 3, 3, 3), 0), "v": signs(5, 8, 3, 2)},
        (3, 8, 8),
    ),
    "conv with a bias, in one dimension": (
        "(float[N,3,8] x) => (float[N,5,a] y)",
        "h = Conv(x, w) r = Relu(h) y = Conv<auto_pad = \"VALID\">(r, v, b)",
        {"w": echoed(normal(8, 3, 1), 0), "v": signs(5, 8, 3), "b": normal(5)},
        (3, 8),
    ),
    "matmul": (
        TOKENS, "h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)",
        {"w": echoed(normal(6, 8), 1), "v": signs(8, 5)}, (7, 6),
    ),
    "matmul and its bias": (
        TOKENS, "h = MatMul(x, w) r = Relu(h) m = MatMul(r, v) y = Add(b, m)",
        {"w": echoed(normal(6, 8), 1), "v": signs(8, 5), "b": normal(5)}, (7, 6),
    ),
    "gemm": (
        "(float[N,6] x) => (float[N,5] y)", "h = Gemm(x, w) r = Relu(h) y = Gemm<transB = 1>(r, v, b)",
        {"w": echoed(normal(6, 8), 1), "v": signs(5, 8), "b": normal(5)}, (6,),
    ),
    "depthwise": (
        "(float[N,3,8,8] x) => (float[N,5,8,8] y)",
        "h = Conv(x, w) r = Relu(h) m = Conv(r, p) y = Conv<group = 5, pads = [1,1,1,1]>(m, d)",
        {"w": echoed(normal(8, 3, 1, 1), 0), "p": signs(5, 8, 1, 1), "d": normal(5, 1, 3, 3)}, (3, 8, 8),
    ),
    "residual sum": (
        "(float[N,3,8,8] x) => (float[N,3,8,8] y)", "h = Conv(x, w) r = Relu(h) s = Conv(r, v) y = Add(x, s)",
        {"w": echoed(normal(8, 3, 1, 1), 0), "v": signs(3, 8, 1, 1)}, (3, 8, 8),
    ),
    "lstm, its inputs cut": (
        "(float[N,T,6] x) => (float[T,D,N,4] y)",
        "h = MatMul(x, p) t = Transpose<perm = [1,0,2]>(h) "
        "y = LSTM<hidden_size = 4, direction = \"bidirectional\">(t, w, r, b)",
        {"p": echoed(normal(6, 8), 1), "w": signs(2, 16, 8), "r": normal(2, 16, 4), "b": normal(2, 32)}, (7, 6),
    ),
    "gru, its inputs cut": (
        "(float[N,T,6] x) => (float[T,D,N,4] y)",
        "h = MatMul(x, p) t = Transpose<perm = [1,0,2]>(h) "
        "y = GRU<hidden_size = 4, direction = \"reverse\">(t, w, r, b)",
        {"p": echoed(normal(6, 8), 1), "w": signs(1, 12, 8), "r": normal(1, 12, 4), "b": normal(1, 24)}, (7, 6),
    ),
}  # fmt: skip


def samples(shape, count=24, seed=1):
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(count)]


def outputs(module, items):
    with OrtRunner(module) as runner:
        return runner.run({"x": np.stack([item["x"] for item in items])})["y"]


def error(module, smaller, items):
    wanted = outputs(module, items)
    return float(np.abs(outputs(smaller, items) - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_can_be_made_up_for_is(name, context, module_of):
    signature, body, weights, shape = NETWORKS[name]
    module = module_of(signature, body, weights)
    items, unseen = samples(shape), samples(shape, seed=2)
    plain = Channels(Ratio(0.5)).run(module.clone(), context()).module
    result = Channels(Ratio(0.5), data=DATA).run(module.clone(), context(items))
    assert verify(result.module) == []
    assert error(module, plain, unseen) > 0.05
    assert error(module, result.module, unseen) < 2e-3
    assert any("1 of 1 layers corrected" in note.message or "2 of 2" in note.message for note in result.notes)


@pytest.mark.parametrize("name", ["conv", "matmul", "matmul and its bias", "gemm", "lstm, its inputs cut"])
def test_constant_channels_become_biases(name, context, module_of):
    """A channel that is the same everywhere is a bias of what reads it."""
    signature, body, weights, shape = NETWORKS[name]
    maker = next(iter(weights))
    axis = 0 if name == "conv" else 1
    made = dict(weights)
    made[maker] = np.array(made[maker])
    made[maker][(slice(None),) * axis + (slice(4, 8),)] = 0
    made["shift"] = np.r_[np.zeros(4), 1.5 * np.ones(4)].reshape((8, 1, 1) if name == "conv" else 8)
    head, _, tail = body.partition(")")
    body = f"{head.replace('h =', 'k =', 1)}) h = Add(k, shift){tail}"
    if "conv" in name:
        body = body.replace("pads = [1,0,2,1], ", "")  # at the border a constant is none
    module = module_of(signature, body, made)
    result = Channels(Ratio(0.5), data=DATA, correct="bias").run(module.clone(), context(samples(shape)))
    assert error(module, Channels(Ratio(0.5)).run(module.clone(), context()).module, samples(shape)) > 0.05
    assert error(module, result.module, samples(shape, seed=2)) < 2e-3


def test_hidden_units_of_an_lstm_are_made_up_for(context, module_of):
    """Two units of each pair do the same: the first alone can drive every gate."""
    inner = signs(2, 4, 6, 3)  # directions, gates, …
    w = np.concatenate([inner[..., :3, :], inner[..., :3, :]], 2).reshape(2, 24, 3)
    half = signs(2, 4, 3, 3)
    r = np.concatenate([np.concatenate([half, 0.5 * half], 3)] * 2, 2).reshape(2, 24, 6)
    bias = np.concatenate([normal(2, 8, 3)] * 2, 2).reshape(2, 48)
    body = (
        's = LSTM<hidden_size = 6, direction = "bidirectional">(x, w, r, b) t = Transpose<perm = [0,2,1,3]>(s) '
        "f = Reshape(t, to) y = MatMul(f, v)"
    )
    weights = {"w": w, "r": r, "b": bias, "v": signs(12, 5)}
    module = module_of("(float[T,N,3] x) => (float[T,N,5] y)", body, weights, steering={"to": [0, 0, 12]})
    items = [{"x": sample["x"][:, None]} for sample in samples((7, 3))]

    def fed(module, items):
        with OrtRunner(module) as runner:
            return np.stack([runner.run(item)["y"] for item in items])

    result = Channels(Ratio(0.5), data=DATA).run(module.clone(), context(items))
    plain = Channels(Ratio(0.5)).run(module.clone(), context())
    unseen = [{"x": sample["x"][:, None]} for sample in samples((7, 3), seed=2)]
    wanted = fed(module, unseen)
    assert np.abs(fed(plain.module, unseen) - wanted).max() > 0.05
    assert np.abs(fed(result.module, unseen) - wanted).max() < 2e-3


def test_statistics_of_a_batch_normalisation_move(context, module_of):
    body = "h = Conv(x, w) r = Relu(h) k = Conv(r, v) y = BatchNormalization(k, g, b, m, s)"
    weights = {"w": normal(8, 3, 1, 1), "v": signs(5, 8, 1, 1), "g": np.ones(5), "b": np.zeros(5),
               "m": normal(5), "s": np.ones(5)}  # fmt: skip
    module = module_of(IMAGE, body, weights)
    items = samples((3, 8, 8))
    result = Channels(Ratio(0.5), data=DATA, correct="bias").run(module.clone(), context(items))
    assert any("statistics of 1 batch normalisation" in note.message for note in result.notes)
    wanted, got = (outputs(one, items).transpose(1, 0, 2, 3).reshape(5, -1) for one in (module, result.module))
    np.testing.assert_allclose(got.mean(1), wanted.mean(1), atol=1e-3)
    np.testing.assert_allclose(got.std(1), wanted.std(1), rtol=1e-3)
    variance = {weight.name: weight.numpy() for weight in result.module.weights()}["s"]
    assert variance.min() > 0
    assert not np.array_equal(variance, np.ones(5))


@cache
def recogniser():
    folder = Path(mopt.recipes.__file__).parent / "crnn"
    parts = []
    for name in ("model", "data"):
        spec = importlib.util.spec_from_file_location(f"crnn_{name}", folder / f"{name}.py")
        parts.append(importlib.util.module_from_spec(spec))
        spec.loader.exec_module(parts[-1])
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    net = parts[0].CRNN()
    net.load_state_dict(load_file(folder / "weights.safetensors"))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (torch.zeros(1, 1, 16, 112),), file, dynamo=False, input_names=["image"],
            output_names=["text"], opset_version=17, dynamic_axes={"image": {0: "N"}},
        )  # fmt: skip
    return from_proto(onnx.load_from_string(file.getvalue())), parts[1].numbers(test=150, train=128)


def test_a_text_recogniser_reads_on(context):
    module, data = recogniser()
    module = Rules().run(module.clone(), context()).module

    def rate(smaller):
        with OrtRunner(smaller) as runner:
            metric = {"cer": CharacterErrorRate(charset=("0123456789",))}
            return evaluate(runner, Samples(data["test"], 150, "test"), metric, batch=50, module=smaller)["cer"]

    plain = rate(Channels(Ratio(0.3)).run(module.clone(), context()).module)
    mended = rate(Channels(Ratio(0.3), data=DATA).run(module.clone(), context(data["calib"])).module)
    assert rate(module) < 0.02
    assert plain > 0.5
    assert mended < 0.04


def test_two_corrections_give_identical_bits(context, module_of, bits):
    signature, body, weights, shape = NETWORKS["conv"]
    first, second = (
        Channels(Ratio(0.4), data=DATA).run(module_of(signature, body, weights), context(samples(shape))).module
        for _ in range(2)
    )
    assert bits(first) == bits(second)


def test_what_cannot_be_made_up_for_is_not_made_worse(context, module_of):
    """Where the samples held out say that a change does not help, none is made."""
    weights = {"w": normal(6, 8), "v": signs(8, 5)}
    module = module_of(TOKENS, "h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)", weights)
    few = samples((1, 6), count=8)
    result = Channels(Ratio(0.5), data=DATA).run(module.clone(), context(few))
    plain = Channels(Ratio(0.5)).run(module.clone(), context())
    unseen = samples((7, 6), count=50, seed=3)
    wanted = outputs(module, unseen)
    lost, left = (np.square(outputs(one.module, unseen) - wanted).mean() for one in (plain, result))
    assert left < 1.05 * lost


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_samples_do(count, context, module_of):
    signature, body, weights, shape = NETWORKS["matmul"]
    module = module_of(signature, body, weights)
    result = Channels(Ratio(0.5), data=DATA).run(module.clone(), context(samples(shape, count)))
    assert verify(result.module) == []
    assert np.isfinite(outputs(result.module, samples(shape))).all()


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "NaN or infinite")])
def test_samples_without_a_magnitude_are_refused(value, word, context, module_of):
    signature, body, weights, shape = NETWORKS["conv"]
    items = samples(shape)
    items[3]["x"][:] = value
    with pytest.raises(PassError, match=word) as raised:
        Channels(Ratio(0.5), data=DATA).run(module_of(signature, body, weights), context(items))
    assert raised.value.node
    assert raised.value.help


def test_an_empty_split_is_refused(context, module_of):
    signature, body, weights, _ = NETWORKS["conv"]
    with pytest.raises(PassError, match="no samples"):
        Channels(Ratio(0.5), data=DATA).run(module_of(signature, body, weights), context([]))


def test_a_shared_kernel_is_left_as_it_is(context, module_of):
    body = "h = MatMul(x, w) k = MatMul(h, v) r = Relu(k) m = MatMul(r, v) y = MatMul(m, u)"
    weights = {"w": normal(6, 8), "v": signs(8, 8), "u": normal(8, 5)}
    module = module_of(TOKENS, body, weights)
    plain = Channels(Ratio(0.4)).run(module.clone(), context()).module
    mended = Channels(Ratio(0.4), data=DATA).run(module.clone(), context(samples((7, 6)))).module
    found, wanted = ({w.name: w.numpy() for w in one.weights()} for one in (mended, plain))
    np.testing.assert_array_equal(found["v"], wanted["v"])
    assert not np.array_equal(found["u"], wanted["u"])


def test_a_depthwise_convolution_is_fitted_channel_by_channel():
    """Against NumPy's own least squares, one channel at a time; channels that are right already stay."""
    from mopt.passes.prune.correct_depthwise import Separate

    random = np.random.default_rng(0)
    x, kernel = random.normal(size=(600, 4, 9)), random.normal(size=(4, 9))
    kernel[2] = 0
    y = np.einsum("rcf,cf->rc", x, kernel) + np.array([0.5, 0, 0, -2])
    y[:, 2] = 0
    fit = Separate(9, 4, kernel=True)
    for start in range(0, 600, 150):
        part = slice(start, start + 150)
        fit.add(x[part], y[part], y[part] + 1, held_out=start == 450)
    found = fit.fit()
    np.testing.assert_allclose(found.kernel, kernel, atol=1e-4)
    np.testing.assert_allclose(found.bias, [0.5, 0, 0, -2], atol=1e-4)
    assert not found.kernel[2].any()
    assert found.bias[2] == 0
    assert found.after < 1e-6 * found.before
    biases = Separate(9, 4, kernel=False)
    biases.add(x, y, y, held_out=False)
    assert biases.fit().kernel is None
    np.testing.assert_allclose(biases.fit().bias[[0, 1, 3]], y.mean(axis=0)[[0, 1, 3]])
