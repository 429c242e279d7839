"""Losses against figures worked out by hand or by PyTorch directly, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mopt.runtime.contract import DataError
from mopt.runtime.judge.losses import CrossEntropy, Ctc, KullbackLeibler, MeanSquaredError, PythonLoss
from mopt.values import Location, PythonRef

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def test_cross_entropy():
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0]], requires_grad=True)
    value = CrossEntropy()({"y": logits}, np.array([0, 1]))
    assert value.item() == pytest.approx((math.log(1 + math.exp(-2)) + math.log(2)) / 2)
    value.backward()
    assert logits.grad[1].tolist() == pytest.approx([0.25, -0.25])
    probabilities = logits.detach().softmax(-1)
    assert CrossEntropy(kind="probabilities")({"y": probabilities}, [0, 1]).item() == pytest.approx(value.item())


def test_mse_and_another_shape():
    assert MeanSquaredError()({"y": torch.tensor([[1.0], [3.0]])}, np.array([1.0, 5.0])).item() == 2
    with pytest.raises(DataError, match=r"targets have the shape \[3\]"):
        MeanSquaredError()({"y": torch.zeros(2)}, np.zeros(3))


def test_ctc_of_one_path():
    """Two steps, target `a`: the paths (a, a), (a, blank), (blank, a)."""
    scores = torch.log(torch.tensor([[[0.6, 0.4], [0.7, 0.3]]]))
    expected = -math.log(0.4 * 0.3 + 0.4 * 0.7 + 0.6 * 0.3)
    assert Ctc()({"y": scores}, [[1]]).item() == pytest.approx(expected)
    assert Ctc(charset=("a",))({"y": scores}, ["a"]).item() == pytest.approx(expected)
    assert Ctc(layout="tnc")({"y": scores.transpose(0, 1)}, [[1]]).item() == pytest.approx(expected)
    flipped = scores.flip(-1)
    assert Ctc(blank=-1, charset=("a",))({"y": flipped}, ["a"]).item() == pytest.approx(expected)
    assert Ctc(kind="probabilities")({"y": scores.exp()}, [[1]]).item() == pytest.approx(expected)


def test_ctc_of_targets_of_unequal_length_has_a_gradient():
    logits = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    Ctc()({"y": logits}, [[1, 2], [3]]).backward()
    assert logits.grad.abs().sum() > 0


def test_ctc_refuses_targets_longer_than_the_sequence():
    scores = {"y": torch.zeros(1, 3, 3)}
    assert math.isfinite(Ctc()(scores, [[1, 2, 1]]).item())
    assert math.isfinite(Ctc()(scores, [[1, 1]]).item())
    with pytest.raises(DataError, match="target 0 of the batch has 4 labels and needs 4 steps, but the output has 3"):
        Ctc()(scores, [[1, 2, 1, 2]])
    with pytest.raises(DataError, match="has 3 labels and needs 4 steps"):
        Ctc()(scores, [[1, 1, 2]])


def test_cross_entropy_refuses_labels_out_of_range():
    scores = {"y": torch.zeros(2, 3)}
    with pytest.raises(DataError, match="the target 3 is no class; the output has 3, 0 to 2"):
        CrossEntropy()(scores, np.array([0, 3]))
    with pytest.raises(DataError, match="the target -1 is no class"):
        CrossEntropy()(scores, np.array([0, -1]))
    assert CrossEntropy()(scores, np.array([0, -100])).item() == pytest.approx(math.log(3))


def test_ctc_refuses_what_it_can_not_take():
    with pytest.raises(DataError, match="say which characters the classes are"):
        Ctc()({"y": torch.zeros(1, 4, 3)}, ["ab"])
    with pytest.raises(DataError, match="the target 'ax' has 'x', which is not in `charset`"):
        Ctc(charset=("ab",))({"y": torch.zeros(1, 4, 3)}, ["ax"])
    with pytest.raises(DataError, match="target 1 of the batch holds the label 3, which is no class; the output has 3"):
        Ctc()({"y": torch.zeros(2, 4, 3)}, [[1], [3]])
    with pytest.raises(DataError, match="holds the label 0, which is the blank"):
        Ctc()({"y": torch.zeros(1, 4, 3)}, [[0]])
    with pytest.raises(DataError, match="1 targets for 4 samples; is `layout` ntc"):
        Ctc()({"y": torch.zeros(4, 1, 3)}, [[1]])


def test_kl_divergence():
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert KullbackLeibler()({"y": student}, teacher).item() == pytest.approx(expected)
    assert KullbackLeibler()({"y": teacher}, teacher).item() == pytest.approx(0, abs=1e-7)
    softened = KullbackLeibler(temperature=2.0)({"y": student}, teacher * 2)
    assert softened.item() == pytest.approx(4 * expected)
    with pytest.raises(DataError, match="targets have the shape"):
        KullbackLeibler()({"y": student}, torch.zeros(1, 3))


def reference(tmp_path, source):
    (tmp_path / "loss.py").write_text(source, encoding="utf-8")
    return PythonRef(Location("loss.py", str(tmp_path)), "loss")


def test_a_recipes_own_loss_gets_tensors(tmp_path):
    source = "def loss(outputs, targets, power=1):\n    return ((outputs['y'] - targets).abs() ** power).mean()\n"
    loss = PythonLoss(reference(tmp_path, source), {"power": 2})
    assert loss({"y": torch.tensor([1.0, 2.0])}, np.array([1.0, 4.0])).item() == 2


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "def loss(outputs, targets):\n    return outputs['y'].item()\n",
            "returned 1.0; a loss is one number as a torch",
        ),
        ("def loss(outputs, targets):\n    return outputs['y'].expand(3)\n", r"returned a tensor of shape \[3\]"),
        (
            "def loss(outputs, targets):\n    return outputs.z\n",
            r"AttributeError.*\n  at loss\.py:2: return outputs\.z",
        ),
    ],
    ids=["a float", "three numbers", "raises"],
)
def test_mistakes_in_it(tmp_path, source, told):
    with pytest.raises(DataError, match=told):
        PythonLoss(reference(tmp_path, source))({"y": torch.ones(1)}, [1])
