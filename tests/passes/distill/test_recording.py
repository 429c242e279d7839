"""A teacher's outputs on disk: made once, gone on with, read by sample."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.passes.contract import PassError
from mopt.passes.distill.recording import Recording, recording_folder
from mopt.passes.distill.response import Response
from mopt.passes.distill.teacher import Teacher
from mopt.runtime.contract import DataError
from mopt.runtime.data.splits import as_split
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, ModelRef

OUTPUTS = ("logits",)


@pytest.fixture
def split(scans):
    return as_split(scans[:100], "scans.train")


@pytest.fixture
def asked(teacher):
    """A teacher that counts the samples it runs on, and may die after so many."""

    class Counted(Teacher):
        ran, dies_after = 0, 10**9

        def run(self, feeds, where):
            if self.ran >= self.dies_after:
                raise KeyboardInterrupt
            self.ran += len(feeds["image"])
            return super().run(feeds, where)

    return lambda module=teacher: Counted(module, "large", {"image": "image"}, OUTPUTS)


def test_it_holds_what_the_teacher_says(asked, teacher, split, context, tmp_path):
    recording = Recording(tmp_path / "r", OUTPUTS, 100)
    assert recording.make(asked(), split, context()) == 100
    images = np.stack([sample["image"] for sample in split])
    expected = OrtRunner(teacher).run({"image": images})["logits"]
    chosen = [99, 3, 3, 64]
    np.testing.assert_allclose(recording.read(chosen)["logits"], expected[chosen], rtol=1e-4, atol=1e-5)
    assert Recording(tmp_path / "r", OUTPUTS, 100).make(asked(), split, context()) == 0


@pytest.mark.parametrize("torn", [0, 1, 50])
def test_a_killed_one_is_gone_on_with(asked, split, context, tmp_path, torn):
    """Also where the kill left half a row of the index, or elements behind it."""
    whole = Recording(tmp_path / "whole", OUTPUTS, 100)
    whole.make(asked(), split, context())
    teacher = asked()
    teacher.dies_after = 64
    with pytest.raises(KeyboardInterrupt):
        Recording(tmp_path / "killed", OUTPUTS, 100).make(teacher, split, context())
    for name in ("index.i64", "0.f32"):
        path = tmp_path / "killed" / name
        path.write_bytes(path.read_bytes() + b"\x07" * torn)
    again = asked()
    recording = Recording(tmp_path / "killed", OUTPUTS, 100)
    assert recording.make(again, split, context()) == 36
    for name in ("index.i64", "0.f32"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_half_a_batch_is_recorded_again(asked, split, context, tmp_path):
    """A kill between two writes of a large batch leaves rows of part of it."""
    recording = Recording(tmp_path / "r", OUTPUTS, 100)
    recording.make(asked(), split, context())
    before = {name: (tmp_path / "r" / name).read_bytes() for name in ("index.i64", "0.f32")}
    (tmp_path / "r" / "index.i64").write_bytes(before["index.i64"][: 80 * 70])
    assert Recording(tmp_path / "r", OUTPUTS, 100).make(asked(), split, context()) == 36
    assert {name: (tmp_path / "r" / name).read_bytes() for name in before} == before


def test_samples_of_unequal_shapes(context, tmp_path):
    """A teacher over any width: what it says of a sample has the sample's own length."""
    import onnx.parser
    from mopt.ir import from_proto

    module = from_proto(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[N, T, 3] x) => (float[N, T, 3] y) { y = Softmax (x) }'
        )
    )
    rng = np.random.default_rng(0)
    samples = [{"x": rng.normal(size=(3 + number // 10 % 3, 3)).astype(np.float32)} for number in range(60)]
    split = as_split(samples, "lines")
    recording = Recording(tmp_path / "r", ("y",), 60)
    assert recording.make(Teacher(module, "t", {"x": "x"}, ("y",)), split, context()) == 60
    for number in (0, 11, 59):
        assert recording.read([number])["y"].shape == (1, 3 + number // 10 % 3, 3)
        wanted = np.exp(samples[number]["x"]) / np.exp(samples[number]["x"]).sum(-1, keepdims=True)
        np.testing.assert_allclose(recording.read([number])["y"][0], wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="same shape"):
        recording.read([0, 11])


def test_a_disk_that_can_not_be_written(asked, split, context, tmp_path):
    (tmp_path / "r").write_text("a file stands where the folder should be", encoding="utf-8")
    with pytest.raises(PassError, match="what the teacher `large` puts out can't be kept") as info:
        Recording(tmp_path / "r", OUTPUTS, 100).make(asked(), split, context())
    assert "mode=online" in info.value.help


def test_steps_with_one_teacher_and_one_data_set_share_it(student, context):
    def run(**options):
        operation = Response(
            data=DataRef("scans", "train"), teacher=ModelRef("large"), steps=2, device="cpu", **options
        )
        return [note.message for note in operation.run(student(), context()).notes]

    assert any("ran on 640 of 640" in text for text in run())
    assert any("had run on these samples before" in text for text in run(temperature=5.0, match="mse"))


def test_what_decides_the_outputs_decides_the_folder(tmp_path):
    folders = {
        recording_folder(tmp_path, outputs, feeds)
        for outputs, feeds in ((("y",), {"x": "x"}), (("z",), {"x": "x"}), (("y",), {"x": "other"}))
    }
    assert len(folders) == 3


def test_padded_samples_need_a_teacher_at_hand(student, context):
    made = context()
    made.split = lambda reference: as_split_padded(reference, context())
    operation = Response(data=DataRef("scans", "train"), teacher=ModelRef("large"), steps=2, device="cpu")
    with pytest.raises(PassError, match="are padded to the longest of their batch") as info:
        operation.run(student(), made)
    assert info.value.help == "take `mode=online`"


def as_split_padded(reference, plain):
    samples = list(plain.split(reference))[:64]
    from mopt.runtime.data.splits import Samples

    return Samples(samples, len(samples), str(reference), pad=True)


def test_data_that_does_not_fit_the_teacher(asked, context, tmp_path):
    split = as_split([{"image": np.zeros((1, 9, 9), np.float32)}] * 4, "scans.train")
    with pytest.raises(DataError, match=r"sample 0 of `scans.train`"):
        Recording(tmp_path / "r", OUTPUTS, 4).make(asked(), split, context())
