"""Zeros, clusters and quantisation grids outlast training."""

import numpy as np
import pytest
from mopt.ir import verify
from mopt.passes.cluster.storage import Storage, Writer, smallest_storage
from mopt.runtime.ort import OrtRunner
from mopt.runtime.trainable.runner import TrainableModule
from mopt.runtime.trainable.writing import write_back

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(1)
LINEAR = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 64] x) => (float[N, 48] y) { y = MatMul(x, w) }"""
X = RNG.standard_normal((8, 64)).astype(np.float32)


def train(runner, feeds, steps=5):
    """A few steps of AdamW, whose momenta and decay move whatever is not held."""
    optimizer = torch.optim.AdamW([p for p in runner.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = runner({name: torch.from_numpy(array) for name, array in feeds.items()})
        sum((tensor - 1).square().mean() for tensor in outputs.values()).backward()
        optimizer.step()


def test_zeros_stay_zero_and_the_rest_trains(parse):
    w = RNG.standard_normal((64, 48)).astype(np.float32)
    zeros = RNG.random(w.shape) < 0.7
    w[zeros] = 0
    module = parse(LINEAR, w=w)
    runner = TrainableModule(module)
    train(runner, {"x": X})
    write_back(runner, module)
    (weight,) = module.weights()
    assert np.array_equal(weight.numpy() == 0, zeros)
    assert np.abs(weight.numpy() - w)[~zeros].min() > 0
    free = TrainableModule(parse(LINEAR, w=w), hold_zeros=False)
    train(free, {"x": X})
    assert not (free.parameter_of("w") == 0).any(), "without a mask they move: the check above can fail"


def test_a_mask_may_grow(parse):
    runner = TrainableModule(parse(LINEAR, w=RNG.standard_normal((64, 48)).astype(np.float32)))
    parameter = runner.parameter_of("w")
    for share in (0.3, 0.6):
        runner.masks.set("w", parameter.detach().abs() < parameter.detach().abs().quantile(share))
        train(runner, {"x": X}, 2)
        assert abs(float((parameter == 0).float().mean()) - share) < 0.01
    assert "masks.w" in runner.state_dict()


@pytest.mark.parametrize("clusters", [4, 16, 200])
def test_codebooks_train_and_their_indices_stay(clusters, parse):
    values = np.concatenate([[0.0], RNG.standard_normal(clusters - 1)]).astype(np.float32)
    indices = RNG.integers(0, clusters, (64, 48)).astype(np.uint8)
    module = parse(LINEAR, w=values[indices])
    weight = next(module.weights())
    storage = smallest_storage(weight.size, clusters, 4, 17) if clusters == 200 else Storage(4, True, 0)
    Writer(module).store(weight, values, indices, storage)
    module.touch()
    runner = TrainableModule(module)
    (parameter,) = runner.weights.parameters()
    assert parameter.shape == (clusters,)
    np.testing.assert_allclose(runner.run({"x": X})["y"], X @ values[indices], rtol=1e-4, atol=1e-4)
    dense = torch.from_numpy(values[indices]).requires_grad_()
    (torch.from_numpy(X) @ dense).square().mean().backward()
    runner({"x": torch.from_numpy(X)})["y"].square().mean().backward()
    expected = np.bincount(indices.reshape(-1), dense.grad.numpy().reshape(-1), clusters)
    ordered = np.argsort(values)
    moving = values[ordered] != 0
    np.testing.assert_allclose(parameter.grad.numpy()[moving], expected[ordered][moving], rtol=1e-3, atol=1e-6)
    train(runner, {"x": X})
    assert write_back(runner, module)
    assert not verify(module)
    after = OrtRunner(module).run({"x": X})["y"]
    np.testing.assert_allclose(after, runner.run({"x": X})["y"], rtol=1e-4, atol=1e-4)
    stored = parameter.detach().numpy()[np.searchsorted(values[ordered], values[indices])]
    np.testing.assert_allclose(after, X @ stored, rtol=1e-4, atol=1e-4)
    assert np.array_equal(stored == 0, values[indices] == 0)


def test_equal_elements_of_a_dense_weight_stay_equal(parse):
    values = RNG.standard_normal(8).astype(np.float32)
    indices = RNG.integers(0, 8, (64, 48))
    module = parse(LINEAR, w=values[indices])
    runner = TrainableModule(module, hold_clusters=("w",))
    train(runner, {"x": X})
    write_back(runner, module)
    (weight,) = module.weights()
    assert len(np.unique(weight.numpy())) == 8
    assert all(len(np.unique(weight.numpy()[indices == place])) == 1 for place in range(8))
    assert np.abs(weight.numpy() - values[indices]).min() > 0


QDQ = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N, 64] x) => (float[N, 48] y) {
  q = QuantizeLinear(x, xs, xz)
  d = DequantizeLinear(q, xs, xz)
  r = DequantizeLinear <axis = 1> (w, ws)
  p = MatMul(d, r)
  pq = QuantizeLinear(p, ps, pz)
  y = DequantizeLinear(pq, ps, pz)
}"""


def qdq(parse):
    return parse(
        QDQ, xs=np.float32(0.02), xz=np.uint8(120), w=RNG.integers(-127, 128, (64, 48)).astype(np.int8),
        ws=RNG.uniform(0.001, 0.01, 48).astype(np.float32), ps=np.float32(0.1), pz=np.uint8(128),
    )  # fmt: skip


def test_a_quantised_graph_trains_on_its_grid(parse):
    module = qdq(parse)
    runner = TrainableModule(module)
    expected = OrtRunner(module, optimize="none").run({"x": X})["y"]
    assert np.abs(runner.run({"x": X})["y"] - expected).max() <= 0.1001, "one quantisation step"
    before = next(weight for weight in module.weights() if weight.name == "w").numpy().copy()
    train(runner, {"x": X}, 20)
    assert write_back(runner, module) == ("w",)
    after = next(weight for weight in module.weights() if weight.name == "w").numpy()
    assert after.dtype == np.int8 and (after != before).mean() > 0.1
    actual = OrtRunner(module, optimize="none").run({"x": X})["y"]
    assert np.abs(runner.run({"x": X})["y"] - actual).max() <= 0.1001
    assert np.square(actual - 1).mean() < np.square(expected - 1).mean()


def test_gradients_pass_straight_through_inside_the_range_only(parse):
    runner = TrainableModule(qdq(parse))
    name = next(record.quantizer for record in runner.grids if record.weight is None)
    quantizer = runner.quantizers[name]
    x = torch.tensor([-5.0, -2.4, 0.013, 2.7, 5.0], requires_grad=True)
    for found in (quantizer(x), (quantizer.integers(x) - quantizer.zero_point) * quantizer.scale):
        found.sum().backward()
        assert x.grad.tolist() == pytest.approx([0, 1, 1, 1, 0])
        assert found.tolist() == pytest.approx([-2.4, -2.4, 0.02, 2.7, 2.7], abs=1e-5)
        x.grad = None


def test_a_grid_that_moved_is_written(parse):
    module = qdq(parse)
    runner = TrainableModule(module)
    records = [record for record in runner.grids if record.weight is None]
    runner.quantizers[records[0].quantizer].scale.fill_(0.04)
    write_back(runner, module)
    assert not verify(module)
    nodes = {node.name: node for node in module.nodes()}
    scales = {float(nodes[name].inputs[1].const_value.numpy()) for name in records[0].nodes}
    assert scales == {float(np.float32(0.04))}
    other = nodes[records[1].nodes[0]]
    assert float(other.inputs[1].const_value.numpy()) == pytest.approx(0.1)


def test_integers_read_on_two_grids_stay_constants(parse):
    """One number that two multiplications read, each on a step of its own (hard swishes' constants, for one)."""
    module = parse(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N, 64] x) => (float[N, 64] y) {
          a = DequantizeLinear(c, one)
          b = DequantizeLinear(c, other)
          xa = Mul(x, a)
          xw = Mul(xa, w)
          y = Add(xw, b)
        }""",
        c=np.array([100], np.int8), one=np.float32(0.02), other=np.float32(0.5), w=np.ones(64, np.float32),
    )  # fmt: skip
    runner = TrainableModule(module)
    assert np.array_equal(runner.run({"x": X})["y"], OrtRunner(module, optimize="none").run({"x": X})["y"])
    assert not runner.grids
    train(runner, {"x": X})
    assert write_back(runner, module) == ("w",)
