"""`distill.features` on modules: layers found by their source names, projections, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.ir import verify
from mopt.passes.contract import PassError
from mopt.passes.distill.features import Features
from mopt.passes.distill.layers import layer_value
from mopt.passes.prune.channels import Channels
from mopt.passes.simplify.rules import Rules
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, LossRef, ModelRef, Ratio

TRAIN, LARGE, LOSS = DataRef("scans", "train"), ModelRef("large"), LossRef("cross_entropy")


def distilled(module, context, **options):
    given = {"data": TRAIN, "teacher": LARGE, "rate": 5e-3, "device": "cpu", "layers": ("n3", "n5"), **options}
    return Features(**given).run(module, context)


def features_of(module, layer, images):
    from mopt.passes.distill.layers import tapped

    value = layer_value(module, layer, "it")
    return OrtRunner(tapped(module, [value])).run({"image": images})[value.name]


def unexplained(student, teacher, layer, scans):
    """Share of the teacher's features that is no linear function of the student's (least squares, on other scans)."""
    images = np.stack([sample["image"] for sample in scans[900:1100]])
    mine, theirs = (_rows(features_of(module, layer, images)) for module in (student, teacher))
    solution, *_ = np.linalg.lstsq(mine, theirs, rcond=None)
    return float(np.square(mine @ solution - theirs).sum() / np.square(theirs).sum())


def _rows(features):
    return np.moveaxis(features, 1, -1).reshape(-1, features.shape[1])


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_narrower_features_come_to_say_what_the_teacher_s_say(student, context, teacher, scans, distance):
    module = student()
    before = unexplained(module, teacher, "n5", scans)
    result = distilled(module, context(), epochs=3, distance=distance)
    assert not verify(result.module)
    assert unexplained(result.module, teacher, "n5", scans) < 0.8 * before
    told = next(note.message for note in result.notes if note.message.startswith("projected"))
    assert told == "projected: `n3` from 4 channels to 12; `n5` from 6 channels to 16"
    # The projections are thrown away: interface and weights are the student's.
    assert [info.name for info in result.module.outputs] == ["logits"]
    assert {w.name: w.shape for w in result.module.weights()} == {w.name: w.shape for w in student().weights()}


def test_pruned_from_its_own_parent(context, teacher, accuracy):
    """What `prune.channels` breaks, its unpruned parent mends: with no label, layer by layer."""
    module = Rules().run(teacher.clone(), context()).module
    module = Channels(Ratio(0.6)).run(module, context()).module
    before = accuracy(module)
    result = distilled(module, context(), epochs=4, layers=("n3", "n5", "n7"), rate=3e-3)
    assert accuracy(result.module) > before + 0.05
    assert any("`n3` from " in note.message for note in result.notes)


def test_layers_are_found_after_simplification(context, teacher):
    """Convolution and normalisation are one node then, which is both layers."""
    simple = Rules().run(teacher.clone(), context()).module
    assert len(list(simple.nodes())) < len(list(teacher.nodes()))
    one, other = layer_value(simple, "n1", "it"), layer_value(simple, "n2", "it")
    assert one is other
    assert one.producer().op_type == "Conv"


def test_with_a_loss_over_the_targets(student, context, accuracy):
    result = distilled(student(), context(), epochs=4, loss=LOSS, alpha=0.3, rate=1e-2)
    assert accuracy(result.module) > 0.8


def test_the_same_seed_gives_the_same_bytes(student, context):
    def run(seed):
        return {w.name: w.numpy().tobytes() for w in distilled(student(), context(seed=seed), steps=6).module.weights()}

    assert run(0) == run(0) != run(1)


def test_offline_features(student, context):
    online = distilled(student(), context(), steps=6, layers={"n5": "n5"}).module
    offline = distilled(student(), context(), steps=6, layers={"n5": "n5"}, mode="offline").module
    for one, other in zip(online.weights(), offline.weights(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-4)


def test_layers_that_are_not_there(student, context):
    with pytest.raises(PassError, match="nothing in the student comes from a layer `n33`; did you mean `n3`"):
        distilled(student(), context(), layers={"n33": "n3"})
    with pytest.raises(
        PassError, match="nothing in the teacher `large` comes from a layer `body`; its layers are `n1`"
    ):
        distilled(student(), context(), layers={"n3": "body"})


def test_features_that_can_not_be_compared(student, context):
    with pytest.raises(
        PassError, match=r"`n3` and the teacher's `n5` have the shapes \[32, 4, 8, 8\] and \[32, 16, 4, 4\]"
    ):
        distilled(student(), context(), layers={"n3": "n5"})
    with pytest.raises(ValueError, match="`layers` names no layer"):
        Features(data=TRAIN, teacher=LARGE, layers=())
