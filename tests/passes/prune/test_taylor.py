"""`prune.channels(criterion=taylor)`: what a channel's score is, and which channels go."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `torch`")

sys.path.insert(0, str(Path(__file__).parent))

from mopt.analysis.coupling import collect, couplings  # noqa: E402
from mopt.passes.contract import PassError  # noqa: E402
from mopt.passes.prune.channels import Channels  # noqa: E402
from mopt.passes.prune.channels_taylor import taylor  # noqa: E402
from mopt.runtime.contract import DataError  # noqa: E402
from mopt.values import Ratio  # noqa: E402
from trained_digits import SPLITS, TRAINING, accuracy, context_in, trained  # noqa: E402

BATCH = 64


def operation(amount=0.3, **options):
    return Channels(Ratio(amount), criterion="taylor", batch=BATCH, **{"correct": "none", **TRAINING, **options})


def scored(module, tmp_path):
    found = collect(couplings(module))
    scores = taylor(module, found, operation(), context_in(tmp_path))
    return {group.name: one for group, one in zip(found, scores, strict=True)}


def test_a_score_is_how_the_loss_moves_when_a_channel_shrinks(tmp_path):
    """Against PyTorch's own network, every weight of a channel scaled by one number and derived by it."""
    module = trained()
    arrays = {weight.name: torch.from_numpy(weight.numpy().copy()) for weight in module.weights()}
    images = torch.from_numpy(np.stack([sample["image"] for sample in SPLITS["train"][:640]]))
    labels = torch.tensor([int(sample["target"]) for sample in SPLITS["train"][:640]])
    functional = torch.nn.functional
    total = torch.zeros(16)
    for start in range(0, 640, BATCH):
        scale = torch.ones(16, requires_grad=True)
        one = functional.conv2d(images[start : start + BATCH], arrays["conv1"], padding=1)
        norms = [arrays[name] for name in ("mean", "var", "scale", "shift")]
        one = torch.relu(functional.batch_norm(one, *norms))
        kernel, bias = arrays["conv2"] * scale[:, None, None, None], arrays["bias2"] * scale
        two = torch.relu(functional.conv2d(one, kernel, bias, stride=2, padding=1)).flatten(1)
        head = arrays["head"] * scale.repeat_interleave(16)
        loss = functional.cross_entropy(
            functional.linear(two, head, arrays["head_bias"]), labels[start : start + BATCH]
        )
        total += torch.autograd.grad(loss, scale)[0] ** 2
    expected = (total / 10).numpy()
    np.testing.assert_allclose(scored(module, tmp_path)["n4"], expected, rtol=1e-3, atol=1e-6 * expected.max())


def test_channels_that_do_nothing_go_first_however_large_they_are(tmp_path):
    module = trained()
    for one in module.weights():
        array = one.numpy().copy()
        if one.name == "head":
            array.reshape(10, 16, 16)[:, [3, 11]] = 0
            one.replace(array)
        elif one.name == "conv2":
            array[[3, 11]] *= 50
            one.replace(array)
    before = accuracy(module)
    by_norm = Channels(Ratio(0.12), only=("n4",)).run(module.clone(), context_in(tmp_path)).module
    by_gradient = operation(0.12, only=("n4",)).run(module.clone(), context_in(tmp_path)).module
    kept = next(one.numpy() for one in module.weights() if one.name == "conv2")[
        [c for c in range(16) if c not in (3, 11)]
    ]
    np.testing.assert_array_equal(next(one.numpy() for one in by_gradient.weights() if one.name == "conv2"), kept)
    assert accuracy(by_gradient) == before
    assert accuracy(by_norm) < before


def test_two_runs_give_identical_bits(tmp_path, bits):
    torch.manual_seed(1)
    first = operation(scope="global").run(trained(), context_in(tmp_path)).module
    torch.manual_seed(2)
    assert bits(operation(scope="global").run(trained(), context_in(tmp_path)).module) == bits(first)


def test_it_goes_with_steps(tmp_path):
    result = operation(0.5, steps=2, rate=3e-3).run(trained(), context_in(tmp_path))
    assert accuracy(result.module) > accuracy(trained()) - 0.05


def test_gradients_that_are_not_finite_are_refused(tmp_path):
    module = trained()
    weight = next(one for one in module.weights() if one.name == "conv2")
    array = weight.numpy().copy()
    array[0, 0, 0, 0] = np.nan
    weight.replace(array)
    with pytest.raises(PassError, match="NaN or infinite") as raised:
        operation().run(module, context_in(tmp_path))
    assert raised.value.help


def test_labels_that_are_no_class_are_refused(tmp_path):
    train = [{**sample, "target": 12} for sample in SPLITS["train"][:64]]
    with pytest.raises(DataError, match="12"):
        operation().run(trained(), context_in(tmp_path, train=train))


def test_operators_without_gradients_are_named(module_of, tmp_path):
    module = module_of(
        "(float[N,8] x) => (float[N,8] y)", "g = MatMul(x, w) h = acme.Odd(g) y = MatMul(g, v)",
        {"w": np.eye(8), "v": np.eye(8)},
    )  # fmt: skip
    with pytest.raises(PassError, match=r"acme|Odd"):
        operation().run(module, context_in(tmp_path))
