"""Evaluation: streaming, batches, and what is said when data and model do not meet."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.runtime.contract import DataError, RunError
from mopt.runtime.data.splits import as_split
from mopt.runtime.judge.evaluate import evaluate, evaluate_loss
from mopt.runtime.judge.losses import CrossEntropy as CrossEntropyLoss
from mopt.runtime.judge.metrics import Accuracy, CrossEntropy, MeanSquaredError
from mopt.runtime.ort import OrtRunner


def digits(count=10, classes=4):
    rng = np.random.default_rng(0)
    return [
        {"image": rng.standard_normal((1, 8, 8), dtype=np.float32), "target": int(label)}
        for label in rng.integers(0, classes, count)
    ]


def test_batches_do_not_change_the_figures(cnn):
    samples = digits(11)
    runner = OrtRunner(cnn)
    predicted = [int(runner.run({"image": s["image"][None]})["logits"].argmax()) for s in samples]
    expected = np.mean([guess == s["target"] for guess, s in zip(predicted, samples, strict=True)])
    assert 0 < expected < 1
    found = [
        evaluate(runner, as_split(samples, "s"), {"acc": Accuracy(), "ce": CrossEntropy()}, batch)
        for batch in (1, 4, 32)
    ]
    assert all(figures["acc"] == pytest.approx(expected) for figures in found)
    assert found[0]["ce"] == pytest.approx(found[2]["ce"], rel=1e-5)


def test_it_streams_and_tells_how_far_it_is(cnn):
    done, read = [], []

    class Stream:
        """Asserts that samples are read no further than the batch that is being stacked."""

        def __len__(self):
            return 6

        def __iter__(self):
            for number, sample in enumerate(digits(6)):
                if done or number:
                    assert number < sum(done) + 2
                read.append(number)
                yield sample

    evaluate(OrtRunner(cnn), as_split(Stream(), "s"), {"acc": Accuracy()}, 2, advance=done.append)
    assert done == [2, 2, 2]
    assert read == [0, 0, 1, 2, 3, 4, 5], "the first is read once more, to check it before anything runs"


def test_pairs_are_fitted_to_the_runner(cnn):
    pairs = [(sample["image"], sample["target"]) for sample in digits()]
    assert evaluate(OrtRunner(cnn), as_split(pairs, "p"), {"acc": Accuracy()}) == evaluate(
        OrtRunner(cnn), as_split(digits(), "d"), {"acc": Accuracy()}
    )


def test_whole_inputs_are_fed_one_sample_at_a_time(packaged_module):
    """Silero takes a state [2, N, 128] and a scalar sample rate, which have no leading batch axis."""
    rng = np.random.default_rng(0)
    samples = [
        {
            "input": rng.standard_normal(576).astype(np.float32), "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(16000), "target": 0.0,
        }
        for _ in range(3)
    ]  # fmt: skip
    found = evaluate(
        OrtRunner(packaged_module("silero")), as_split(samples, "s"), {"mse": MeanSquaredError(output="output")}, 8
    )
    assert 0 < found["mse"] < 1


def test_a_model_with_a_fixed_batch_is_run_with_it(build):
    from onnx import TensorProto, helper

    module = build(
        [helper.make_node("Relu", ["x"], ["y"])], [("x", TensorProto.FLOAT, [1, 2])], [("y", TensorProto.FLOAT, [1, 2])]
    )
    split = as_split([{"x": np.ones(2, np.float32), "target": np.ones(2)} for _ in range(3)], "s")
    assert evaluate(OrtRunner(module), split, {"mse": MeanSquaredError()}, 8) == {"mse": 0.0}


def test_samples_without_target_are_an_error(cnn):
    split = as_split([{"image": np.zeros((1, 8, 8), np.float32)}], "unlabelled")
    with pytest.raises(DataError, match="the samples of `unlabelled` have no `target`, which `acc` compares"):
        evaluate(OrtRunner(cnn), split, {"acc": Accuracy()})


def test_nan_is_reported_with_its_sample(fake_runner):
    def answer(feeds):
        outputs = np.zeros((len(feeds["x"]), 2), np.float32)
        if feeds["x"].max() > 3:
            outputs[0, 0] = np.nan
        return {"logits": outputs}

    split = as_split([{"x": np.float32([i]), "target": 0} for i in range(6)], "s")
    with pytest.raises(DataError, match=r"output `logits` is NaN \(25% of it\) on samples 4 to 5 of `s`: an overflow"):
        evaluate(fake_runner(answer), split, {"acc": Accuracy()}, 2)


def test_a_model_that_does_not_run_is_told_with_the_shapes(fake_runner):
    def answer(feeds):
        raise RunError("width must be a multiple of 32")

    split = as_split([{"x": np.zeros((3, 40), np.float32), "target": 0}], "s")
    with pytest.raises(DataError, match=r"does not run on sample 0 of `s` \(`x` \[1, 3, 40\]\): width must be"):
        evaluate(fake_runner(answer), split, {"acc": Accuracy()})


def test_a_metrics_complaint_carries_its_name(fake_runner):
    runner = fake_runner(lambda feeds: {"y": np.zeros((len(feeds["x"]), 2, 2))})
    split = as_split([{"x": np.float32([1]), "target": 0}], "s")
    with pytest.raises(DataError, match="`top1`: the output has the shape"):
        evaluate(runner, split, {"top1": Accuracy()})


def test_a_loss_as_a_figure_is_the_mean_over_samples(cnn):
    pytest.importorskip("torch")
    split = as_split(digits(7), "s")
    figures = evaluate(OrtRunner(cnn), split, {"ce": CrossEntropy()}, 4, losses={"loss": CrossEntropyLoss()})
    assert figures["loss"] == pytest.approx(figures["ce"], rel=1e-5), "uneven batches are weighted"
    assert evaluate_loss(OrtRunner(cnn), split, CrossEntropyLoss(), 3) == pytest.approx(figures["ce"], rel=1e-5)


def test_a_loss_that_can_not_take_the_outputs(fake_runner):
    pytest.importorskip("torch")
    runner = fake_runner(lambda feeds: {"y": np.zeros((len(feeds["x"]), 2), np.float32)})
    split = as_split([{"x": np.float32([1]), "target": 9}], "s")
    with pytest.raises(DataError, match="the target 9 is no class; the output has 2, 0 to 1"):
        evaluate(runner, split, {}, losses={"ce": CrossEntropyLoss()})
    split = as_split([{"x": np.float32([1]), "target": np.float32([0.2, 0.3, 0.5])}], "s")
    with pytest.raises(DataError, match=r"the loss `ce` can't take outputs `y` \[1, 2\]"):
        evaluate(runner, split, {}, losses={"ce": CrossEntropyLoss()})
