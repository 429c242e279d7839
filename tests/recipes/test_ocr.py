"""The data and the metric of `ocr.mopt`, and what the untouched networks reach on them."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.ir import load
from mopt.recipes.ocr.data import lines, pages, turned
from mopt.recipes.ocr.metrics import Hmean, boxes, matches
from mopt.runtime.judge.metrics import Accuracy, CharacterErrorRate, ExactMatch
from mopt.runtime.ort import OrtRunner
from mopt.values import Location

RAPID = "pkg:rapidocr_onnxruntime/models/"


def test_data_is_the_same_for_the_same_seed() -> None:
    for make in (lines, turned, pages):
        first, second, other = (make(seed=seed, count=3)["test"] for seed in (0, 0, 1))
        for a, b, c in zip(first, second, other, strict=True):
            np.testing.assert_array_equal(a["x"], b["x"])
            np.testing.assert_array_equal(a["target"], b["target"])
            assert a["x"].shape != c["x"].shape or not np.array_equal(a["x"], c["x"])


def test_lines_of_two_heights_hold_the_same_text() -> None:
    tall, low = lines(count=5)["test"], lines(count=5, height=32)["test"]
    assert [sample["target"] for sample in tall] == [sample["target"] for sample in low]
    assert {sample["x"].shape[1] for sample in tall} == {48}
    assert {sample["x"].shape[2] % 64 for sample in low} == {0}


def test_boxes_are_read_off_a_map_and_grown() -> None:
    probability = np.zeros((60, 100))
    probability[20:30, 10:60] = 0.9
    probability[40, 40] = 1  # too small to be a line
    (box,) = boxes(probability)
    grow = 10 * 50 * 1.5 / (2 * (10 + 50))
    np.testing.assert_allclose(box, [10 - grow, 20 - grow, 60 + grow, 30 + grow])


@pytest.mark.parametrize(
    ("found", "count"),
    [
        ([(0, 0, 10, 10)], 1),
        ([(0, 0, 10, 10), (1, 0, 10, 10)], 1),  # one box matches once
        ([(0, 0, 10, 4)], 0),
        ([(0, 0, 10, 5)], 1),  # an overlap of exactly one half
        ([(20, 20, 30, 30), (0, 1, 10, 10)], 2),
        ([], 0),
    ],
)
def test_matches(found: list[tuple[int, ...]], count: int) -> None:
    wanted = np.array([(0, 0, 10, 10), (20, 20, 30, 30)])
    assert matches(np.array(found, float).reshape(-1, 4), wanted) == count


def test_hmean_counts_over_all_pages() -> None:
    metric = Hmean()
    probability = np.zeros((2, 1, 40, 60))
    probability[0, 0, 15:25, 10:50] = 1
    target = [np.array([(4, 9, 56, 31)]), np.array([(4, 9, 56, 31)])]
    metric.update({"map": probability}, target)
    assert metric.compute() == pytest.approx(2 / 3)  # recall 1/2, precision 1


def test_recogniser_reads_lines() -> None:
    module = load(Location(RAPID + "ch_PP-OCRv4_rec_infer.onnx").resolve())
    runner = OrtRunner(module)
    (name,) = (port.name for port in runner.inputs)
    states = [metric.start(module) for metric in (CharacterErrorRate(), ExactMatch())]
    for sample in lines(count=40)["test"]:
        outputs = runner.run({name: sample["x"][None]})
        for state in states:
            state.update(outputs, [sample["target"]])
    assert states[0].compute() < 0.01
    assert states[1].compute() > 0.85


def test_classifier_tells_which_way_is_up() -> None:
    runner = OrtRunner(load(Location(RAPID + "ch_ppocr_mobile_v2.0_cls_infer.onnx").resolve()))
    state = Accuracy().start(None)
    test = turned(count=40)["test"]
    state.update(runner.run({"x": np.stack([sample["x"] for sample in test])}), [sample["target"] for sample in test])
    assert 0.8 < state.compute() < 1


def test_detector_finds_lines() -> None:
    runner = OrtRunner(load(Location(RAPID + "ch_PP-OCRv4_det_infer.onnx").resolve()))
    metric = Hmean()
    for sample in pages(count=3)["test"]:
        metric.update(runner.run({"x": sample["x"][None]}), [sample["target"]])
    assert 0.85 < metric.compute() < 1
