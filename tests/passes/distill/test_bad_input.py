"""What can't be distilled is refused before anything runs, and what goes wrong on the way says where."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
from mopt.ir import from_proto
from mopt.passes.contract import PassError
from mopt.passes.distill.features import Features
from mopt.passes.distill.response import Response
from mopt.runtime.contract import DataError
from mopt.values import DataRef, LossRef, ModelRef

TRAIN, LOSS = DataRef("scans", "train"), LossRef("cross_entropy")
KINDS = {"response": (Response, {}), "features": (Features, {"layers": ("n7",)})}
BOTH = pytest.mark.parametrize("kind", list(KINDS))
INPUT, OUTPUT = "float[N, 1, 8, 8] image", "float[N, 10] logits"


def distilled(kind, module, context, **options):
    make, more = KINDS[kind]
    given = {"data": TRAIN, "teacher": ModelRef("large"), "rate": 5e-3, "device": "cpu", **more, **options}
    return make(**given).run(module, context)


def graph(inputs, outputs, body):
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {body} }}'
    return from_proto(onnx.parser.parse_model(text))


OTHERS = {
    "other classes": (
        graph(INPUT, "float[N, 64] logits", "logits = Flatten (image)"),
        r"the student has the output `logits: f32\[N, 10\]`, the teacher `odd` the output `logits: f32\[N, 64\]`",
    ),
    "another input beside": (
        graph(f"{INPUT}, float[N] length", OUTPUT, "f = Flatten (image) l = Neg (length) logits = Identity (f)"),
        r"the student `image: .*`: nothing feeds the teacher's `length`",
    ),
    "bytes": (
        graph("uint8[N, 1, 8, 8] image", OUTPUT, "c = Cast <to: int = 1> (image) logits = Flatten (c)"),
        r"the student has the input `image: f32\[N, 1, 8, 8\]`, the teacher `odd` the input `image: u8",
    ),
    "another rank": (
        graph(INPUT, "float[N, 1, 8, 8] logits", "logits = Identity (image)"),
        r"the student has the output `logits: f32\[N, 10\]`, the teacher `odd` the output `logits: f32\[N, 1, 8, 8\]`",
    ),
    "no output of one name": (
        graph(INPUT, "float[N, 10] a, float[N, 10] b", "a = Flatten (image) b = Neg (a)"),
        "the teacher `odd` `a: .*, `b: .*: no two have the same name",
    ),
    "classes instead of logits": (
        graph(INPUT, "int64[N] logits", "f = Flatten (image) logits = ArgMax <axis: int = 1, keepdims: int = 0> (f)"),
        "no output that the student and its teacher `odd` share is one of reals",
    ),
}


@pytest.mark.parametrize("which", list(OTHERS))
def test_another_interface(student, context, which):
    """Told from the graphs alone: no sample is looked at."""
    odd, told = OTHERS[which]
    made = context(teachers={"odd": odd})
    made.split = lambda reference: pytest.fail("data was read")
    with pytest.raises(PassError, match=told):
        distilled("response", student(), made, teacher=ModelRef("odd"))


def test_features_of_a_teacher_that_is_fed_otherwise(student, context):
    odd, told = OTHERS["another input beside"]
    with pytest.raises(PassError, match=told):
        distilled("features", student(), context(teachers={"odd": odd}), teacher=ModelRef("odd"), layers={"n7": "f"})


@BOTH
def test_nothing_to_train(student, context, kind):
    """Told before the teacher runs: it would run for nothing."""
    made = context()
    made.recordings = lambda model, data: pytest.fail("the teacher ran")
    with pytest.raises(PassError, match="nothing is left to train"):
        distilled(kind, student(), made, skip=("*",), mode="offline")


def test_a_student_without_weights(context):
    frozen = graph(INPUT, "float[N, 64] logits", "s = Relu (image) logits = Flatten (s)")
    with pytest.raises(PassError, match="nothing to train"):
        distilled("response", frozen, context({"odd": OTHERS["other classes"][0]}), teacher=ModelRef("odd"))


@BOTH
def test_a_loss_that_is_no_number(student, context, array_of, kind):
    with pytest.raises(PassError, match=r"the loss is (nan|inf) at step \d+ of 40"):
        distilled(kind, student(), context(), steps=40, rate=1e30, optimizer="sgd")
    made = context()
    made.checkpoints = made.scratch / "others"
    module = student()
    before = array_of(module, "head")
    result = distilled(kind, module, made, steps=40, rate=1e30, optimizer="sgd", nan="keep")
    assert any(note.message.endswith("the weights are those after step 0") for note in result.notes)
    np.testing.assert_array_equal(array_of(result.module, "head"), before)


@BOTH
def test_data_that_does_not_do(student, context, kind):
    samples = [dict(sample) for sample in context().split(TRAIN)][:40]
    samples[7]["target"] = 10
    with pytest.raises(DataError, match=r"the target 10 is no class; .* \(step \d, samples .* of `scans.train`\)"):
        distilled(kind, student(), context(train=samples), loss=LOSS)
    with pytest.raises(DataError, match=r"`scans.train` has 40 samples, fewer than one batch of 100"):
        distilled(kind, student(), context(train=samples), batch=100, last="drop")


@BOTH
def test_a_loss_of_the_wrong_shape(student, context, kind):
    import torch

    def rows(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs["logits"], targets, reduction="none")

    made = context()
    made.loss = lambda reference: rows
    with pytest.raises(DataError, match=r"`mine` returned a tensor of shape \[32\]; a loss is one number"):
        distilled(kind, student(), made, loss=LossRef("mine"), steps=2)
