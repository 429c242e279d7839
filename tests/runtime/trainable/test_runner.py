"""The runner as a torch module: parameters, freezing, batch normalisation, control flow, errors, writing back."""

import copy

import numpy as np
import pytest
from mopt.ir import provenance, verify
from mopt.runtime.ort import OrtRunner
from mopt.runtime.trainable.missing import NotTrainableError
from mopt.runtime.trainable.runner import TrainableModule
from mopt.runtime.trainable.writing import write_back

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 3)).astype(np.float32)
X = RNG.standard_normal((5, 4)).astype(np.float32)

LINEAR = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 4] x) => (float[N, 3] y) { y = MatMul(x, w) }"""


def step(runner, feeds, rate=0.1):
    """One step of plain gradient descent on the sum of squares of the outputs."""
    outputs = runner({name: torch.from_numpy(array) for name, array in feeds.items()})
    sum(tensor.square().sum() for tensor in outputs.values()).backward()
    with torch.no_grad():
        for parameter in runner.weights.parameters():
            if parameter.grad is not None:
                parameter -= rate * parameter.grad
                parameter.grad = None


def test_a_step_is_the_one_by_hand_and_is_written_back(parse):
    module = parse(LINEAR, w=W)
    runner = TrainableModule(module)
    step(runner, {"x": X}, 0.01)
    expected = W - 0.01 * 2 * X.T @ (X @ W)
    assert write_back(runner, module) == ("w",)
    (weight,) = module.weights()
    np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-5)
    assert not verify(module)
    np.testing.assert_allclose(OrtRunner(module).run({"x": X})["y"], runner.run({"x": X})["y"], rtol=1e-5)
    assert write_back(runner, module) == ()


def test_half_precision_weights_train_in_float32_and_keep_their_type(parse):
    text = LINEAR.replace("float[", "float16[")
    module = parse(text, w=W.astype(np.float16))
    runner = TrainableModule(module)
    assert runner.parameter_of("w").dtype == torch.float32
    step(runner, {"x": X.astype(np.float16)}, 1e-5)
    write_back(runner, module)
    (weight,) = module.weights()
    assert weight.dtype == "f16"
    moved = runner.parameter_of("w").detach().numpy() - W.astype(np.float16).astype(np.float32)
    assert 0 < np.abs(moved).max() < 1e-2, "a step that half precision would partly lose"


def test_weights_in_branches_and_constant_nodes_train(parse):
    module = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (bool c, float[2] x) => (float[2] y) {
          k = Constant <value = float[2] {2.0, 3.0}> ()
          h = Mul(x, k)
          y = If (c) <
            then_branch = t () => (float[2] a) { u = Constant <value = float[2] {5.0, 7.0}> () a = Mul(h, u) },
            else_branch = e () => (float[2] b) { b = Neg(h) }
          >
        }"""
    )
    runner = TrainableModule(module)
    x = torch.tensor([1.0, -1.0])
    assert runner({"c": torch.tensor(True), "x": x})["y"].tolist() == [10.0, -21.0]
    outputs = runner({"c": torch.tensor(True), "x": x})["y"]
    outputs.sum().backward()
    assert runner.parameter_of("u").grad.tolist() == [2.0, -3.0]
    assert runner.parameter_of("k").grad.tolist() == [5.0, -7.0]
    assert runner({"c": torch.tensor(False), "x": x})["y"].tolist() == [-2.0, 3.0]


def test_a_loop_with_a_weight_inside_and_exact_integers(parse):
    module = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (int64 n, float[2] x) => (float[2] y, int64[K] counts) {
          big = Constant <value = int64 {9007199254740993}> ()
          true = Constant <value = bool {1}> ()
          y, counts = Loop (n, true, x) <
            body = b (int64 i, bool go, float[2] state) => (bool on, float[2] next, int64 count) {
              on = Identity(go)
              next = Mul(state, w)
              count = Add(i, big)
            }
          >
        }""",
        w=np.array([2.0, 3.0], np.float32),
    )
    runner = TrainableModule(module)
    feeds = {"n": torch.tensor(3), "x": torch.ones(2)}
    found = runner(feeds)
    assert found["y"].tolist() == [8.0, 27.0]
    # beyond 2^53: a detour over floats would show
    assert found["counts"].tolist() == [9007199254740993, 9007199254740994, 9007199254740995]
    found["y"].sum().backward()
    assert runner.parameter_of("w").grad.tolist() == [12.0, 27.0]
    assert runner({**feeds, "n": torch.tensor(0)})["counts"].shape == (0,)


BATCH_NORM = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 3] x) => (float[N, 3] y) { y = BatchNormalization <momentum = 0.8> (x, scale, bias, mean, var) }"""


def test_batch_normalisation_trains_or_is_frozen(parse):
    names = {"scale": np.ones(3), "bias": np.zeros(3), "mean": np.full(3, 0.5), "var": np.full(3, 2.0)}
    module = parse(BATCH_NORM, **{name: array.astype(np.float32) for name, array in names.items()})
    x = torch.from_numpy(RNG.standard_normal((64, 3)).astype(np.float32))
    frozen = TrainableModule(module, batch_norm="frozen").train()
    torch.testing.assert_close(frozen({"x": x})["y"], (x - 0.5) / (2.0 + 1e-5) ** 0.5)
    assert frozen.parameter_of("mean").tolist() == [0.5] * 3
    runner = TrainableModule(module).train()
    torch.testing.assert_close(runner({"x": x})["y"], torch.nn.functional.batch_norm(x, None, None, training=True))
    torch.testing.assert_close(runner.parameter_of("mean"), 0.8 * torch.full((3,), 0.5) + 0.2 * x.mean(0))
    torch.testing.assert_close(runner.parameter_of("var"), 0.8 * torch.full((3,), 2.0) + 0.2 * x.var(0))
    assert set(runner.readers) == {"scale", "bias"}
    assert set(write_back(runner, module)) == {"mean", "var"}
    torch.testing.assert_close(
        runner.eval()({"x": x})["y"].detach(), torch.from_numpy(OrtRunner(module).run({"x": x.numpy()})["y"])
    )


def test_every_missing_operator_is_told_at_once(parse):
    module = parse(
        """<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>
        g (float[N, 4] x) => (float[N, 3] y) { a = acme.Blur(x) b = MatMul(a, w) y = acme.Sharpen(b) }""",
        w=W,
    )
    nodes = list(module.nodes())
    provenance.stamp_source(module)
    provenance.inherit([nodes[2]], [nodes[2]], "acme.rewrite/sharpen")
    with pytest.raises(NotTrainableError) as caught:
        TrainableModule(module)
    text = str(caught.value)
    assert [entry.operator for entry in caught.value.missing] == ["acme::Blur", "acme::Sharpen"]
    assert nodes[0].name in text and "as the source model has it" in text
    assert f"layer `{nodes[2].name}`" in text and "made by acme.rewrite/sharpen" in text
    assert "acme.rewrite" in caught.value.help


def test_nothing_to_train(parse):
    with pytest.raises(NotTrainableError, match="nothing to train"):
        TrainableModule(
            parse('<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
        )
    module = parse(LINEAR, w=W)
    with pytest.raises(NotTrainableError, match="all 1 weights are frozen by `w`"):
        TrainableModule(module, freeze=("w",))
    assert not any(parameter.requires_grad for parameter in TrainableModule(module, trainable=False).parameters())


def test_freezing_by_layer_and_by_weight(cnn):
    provenance.stamp_source(cnn)
    runner = TrainableModule(cnn, freeze=("conv",))
    wanted = {"conv.weight": False, "conv.bias": False, "fc.weight": True, "fc.bias": True}
    assert {name: runner.parameter_of(name).requires_grad for name in wanted} == wanted
    runner = TrainableModule(cnn, only=("*.bias",))
    assert [name for name in wanted if runner.parameter_of(name).requires_grad] == ["conv.bias", "fc.bias"]


def test_a_copy_trains_by_itself(cnn):
    runner = TrainableModule(cnn)
    other = copy.deepcopy(runner)
    before = runner.parameter_of("fc.weight").clone()
    step(other, {"image": RNG.standard_normal((2, 1, 8, 8)).astype(np.float32)})
    assert torch.equal(runner.parameter_of("fc.weight"), before)
    assert not torch.equal(other.parameter_of("fc.weight"), before)
    runner.load_state_dict(other.state_dict())
    assert torch.equal(runner.parameter_of("fc.weight"), other.parameter_of("fc.weight"))


def test_an_error_names_the_node(cnn):
    with pytest.raises(RuntimeError) as caught:
        TrainableModule(cnn)({"image": torch.zeros(1, 2, 8, 8)})
    assert "at node `conv` (Conv)" in caught.value.__notes__
    with pytest.raises(KeyError, match="no value for input `image`"):
        TrainableModule(cnn)({})


def test_activations_are_freed_as_a_module_frees_them(parse):
    """Of a chain of twenty results no more than two are alive at once."""
    lines = " ".join(f"h{n + 1} = Neg(h{n})" for n in range(20))
    module = parse(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] y) '
        f"{{ h0 = Mul(x, w) {lines} y = Neg(h20) }}",
        w=np.ones(2, np.float32),
    )
    runner = TrainableModule(module)
    alive = []
    for position, draft in enumerate(runner._program.steps):
        freed = {slot for earlier in runner._program.steps[: position + 1] for slot in earlier.frees}
        made = {slot for earlier in runner._program.steps[: position + 1] for slot in earlier.outputs}
        alive.append(len(made - freed))
        assert draft.label
    assert max(alive) == 1
