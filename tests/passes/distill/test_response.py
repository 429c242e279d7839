"""`distill.response` on modules: students learn from teachers what labels alone do not tell them."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.build.contracts import check_promises
from mopt.ir import verify
from mopt.passes.contract import PassError
from mopt.passes.distill.response import Response
from mopt.passes.prune.magnitude import Magnitude
from mopt.passes.tune.tune import Tune
from mopt.runtime.contract import DataError
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, LossRef, MetricRef, ModelRef, Ratio

TRAIN, HELD = DataRef("scans", "train"), DataRef("scans", "held")
LARGE, LOSS = ModelRef("large"), LossRef("cross_entropy")


def distilled(module, context, **options):
    operation = Response(**{"data": TRAIN, "teacher": LARGE, "rate": 5e-3, "device": "cpu", **options})
    return operation.run(module, context)


def bytes_of(module):
    return {weight.name: weight.numpy().tobytes() for weight in module.weights()}


@pytest.mark.parametrize("match", ["kl", "mse"])
def test_it_learns_without_a_single_label(student, context, accuracy, scans, without_labels, match):
    module = student()
    before = accuracy(module)
    result = distilled(module, context(train=without_labels(scans[:640])), epochs=4, rate=1e-2, match=match)
    assert result.modified
    assert not verify(result.module)
    assert before < 0.3 < 0.7 < accuracy(result.module)
    assert any("`large` ran on 640 of 640 samples" in note.message for note in result.notes)


def test_a_student_beats_the_same_budget_without_a_teacher(student, context, accuracy, scans, without_labels):
    """Ninety labels: what the teacher says of samples without one is worth more."""
    labelled = scans[:90]
    with_labels, with_teacher = [], []
    for seed in (1, 2):
        tuned = Tune(TRAIN, LOSS, steps=60, rate=5e-3, device="cpu").run(student(seed=seed), context(train=labelled))
        with_labels.append(accuracy(tuned.module))
        samples = context(train=without_labels(scans[:640]))
        with_teacher.append(accuracy(distilled(student(seed=seed), samples, steps=60).module))
    assert np.mean(with_teacher) > np.mean(with_labels) + 0.01, (with_labels, with_teacher)


def test_offline_and_online_are_the_same(student, context):
    offline = distilled(student(), context(), steps=12, loss=LOSS).module
    online = distilled(student(), context(), steps=12, loss=LOSS, mode="online").module
    for one, other in zip(offline.weights(), online.weights(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=2e-4)


def test_the_same_seed_gives_the_same_bytes(student, context):
    one, other, third = (distilled(student(), context(seed=seed), steps=8, loss=LOSS).module for seed in (0, 0, 1))
    assert bytes_of(one) == bytes_of(other) != bytes_of(third)


def test_alpha_is_the_teacher_s_share(student, context):
    tuned = Tune(TRAIN, LOSS, steps=6, rate=5e-3, device="cpu").run(student(), context()).module
    none = distilled(student(), context(), steps=6, loss=LOSS, alpha=0.0).module
    for one, other in zip(tuned.weights(), none.weights(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)
    whole = distilled(student(), context(), steps=6, loss=LOSS, alpha=1.0).module
    assert bytes_of(whole) == bytes_of(distilled(student(), context(), steps=6).module)


def test_the_best_weights_by_the_metric_are_kept(student, context):
    result = distilled(
        student(), context(), epochs=2, validation=HELD, monitor=MetricRef("accuracy"), every=5, rate=0.02
    )
    figures = result.notes[0].figures
    assert dict(figures["monitor"])[figures["kept_step"]] == max(figure for _, figure in figures["monitor"])


def test_zeros_of_earlier_steps_stay(student, context, array_of):
    module = student()
    before = module.clone()
    operation = Magnitude(Ratio(0.7))
    module = operation.run(module, context()).module
    promises = operation.promises(before, module)
    zeros = array_of(module, "head") == 0
    result = distilled(module, context(promises=promises), epochs=1)
    np.testing.assert_array_equal(array_of(result.module, "head") == 0, zeros)
    check_promises(result.module, promises)


def test_a_quantised_student_keeps_its_grids(student, context):
    from mopt.build.grids import check_grids
    from mopt.passes.quantize.static import Static
    from mopt.passes.simplify.rules import Rules

    module = Rules().run(distilled(student(), context(), epochs=1).module, context()).module
    module = Static(TRAIN, batch=32).run(module, context()).module
    before = module.clone()
    result = distilled(module, context(), steps=20, rate=1e-3)
    assert result.modified
    check_grids(before, result.module)


def test_a_quantised_teacher_teaches(student, context, teacher, accuracy):
    from mopt.passes.quantize.static import Static

    small = Static(TRAIN, batch=32).run(teacher.clone(), context()).module
    result = distilled(student(), context(teachers={"int8": small}), teacher=ModelRef("int8"), epochs=3, rate=1e-2)
    assert accuracy(result.module) > 0.75


def test_probabilities_are_seen_in_the_graph(student, context, teacher):
    """A teacher that ends with a softmax says the same as one without."""
    import onnx_ir as ir

    soft = teacher.clone()
    logits = soft.graph.outputs[0]
    made = ir.Node("", "Softmax", [logits], attributes=[ir.AttrInt64("axis", -1)], name="soft")
    made.outputs[0].name, made.outputs[0].type, made.outputs[0].shape = "p", logits.type, logits.shape
    soft.graph.append(made)
    soft.graph.outputs[0] = made.outputs[0]
    soft.touch()
    plain = distilled(student(), context(), steps=5).module
    other = distilled(student(), context(teachers={"soft": soft}), steps=5, teacher=ModelRef("soft")).module
    for one, two in zip(plain.weights(), other.weights(), strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-3)


def test_other_names_are_declared(student, context):
    module = student(names=("picture", "scores"))
    samples = [{"picture": s["image"], "target": s["target"]} for s in context().split(TRAIN)][:64]
    with pytest.raises(PassError, match=r"takes `image: f32\[N, 1, 8, 8\]`, and the student `picture: f32") as info:
        distilled(module, context(train=samples), steps=1)
    assert info.value.help.startswith('where only names differ, say so: `inputs={picture: "image"}`')
    assert distilled(module, context(train=samples), steps=1, inputs={"picture": "image"}).modified
    with pytest.raises(PassError, match="the student has no input `image`"):
        distilled(module, context(train=samples), steps=1, inputs={"image": "image"})
    with pytest.raises(PassError, match="the teacher `large` has no output `scores`"):
        distilled(module, context(train=samples), inputs={"picture": "image"}, outputs={"scores": "scores"})


def test_interfaces_that_do_not_fit(student, context, teacher):
    wide = student()
    wide.graph.inputs[0].shape = type(wide.graph.inputs[0].shape)(["N", 1, 16, 16])
    wide.touch()
    expected = (
        r"the student has the input `image: f32\[N, 1, 8, 8\]`, the teacher `wide` the input `image: f32\[N, 1, 16"
    )
    with pytest.raises(PassError, match=expected):
        distilled(student(), context(teachers={"wide": wide}), teacher=ModelRef("wide"))


def test_match_ctc_is_for_sequences(student, context):
    with pytest.raises(PassError, match=r"`match=ctc` compares sequences"):
        distilled(student(), context(), match="ctc")


def test_a_student_that_is_its_teacher(context, teacher):
    with pytest.raises(PassError, match="the student is its teacher `large`, weight for weight: there is nothing"):
        distilled(teacher.clone(), context(), steps=1)
    result = distilled(teacher.clone(), context(), steps=1, loss=LOSS)
    assert any(note.severity == "warning" and "weight for weight" in note.message for note in result.notes)


def test_a_teacher_that_knows_no_number(student, context, teacher):
    broken = teacher.clone()
    next(w for w in broken.weights() if w.name == "head_bias").replace(np.full(10, np.nan, np.float32))
    with pytest.raises(DataError, match=r"output `logits` of the teacher `broken` is NaN on samples 0 to 31 of"):
        distilled(student(), context(teachers={"broken": broken}), teacher=ModelRef("broken"))


def test_a_teacher_with_a_fixed_batch(student, context, teacher):
    fixed = teacher.clone()
    for value in (*fixed.graph.inputs, *fixed.graph.outputs):
        value.shape = type(value.shape)([32, *list(value.shape)[1:]])
    fixed.touch()
    samples = list(context().split(TRAIN))[:70]
    plain = distilled(student(), context(train=samples), steps=4, data=DataRef("scans", "train", 0, 70)).module
    made = context(train=samples, teachers={"fixed": fixed})
    assert bytes_of(plain) == bytes_of(distilled(student(), made, steps=4, teacher=ModelRef("fixed")).module)
    assert OrtRunner(fixed).inputs[0].shape[0] == 32


def test_options_that_do_not_go_together():
    with pytest.raises(ValueError, match="`alpha` leaves a share"):
        Response(data=TRAIN, teacher=LARGE, alpha=0.5)
    with pytest.raises(ValueError, match="`validation` needs something to look at"):
        Response(data=TRAIN, teacher=LARGE, validation=HELD)
