"""Metrics against figures worked out by hand, their bad inputs, and a real recogniser on a rendered line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from mopt.ir import load
from mopt.runtime.contract import DataError
from mopt.runtime.judge.decode import best_path
from mopt.runtime.judge.metrics import (
    F1,
    Accuracy,
    CharacterErrorRate,
    Cosine,
    CrossEntropy,
    ExactMatch,
    MeanSquaredError,
    PythonMetric,
    WordErrorRate,
)
from mopt.runtime.ort import OrtRunner
from mopt.values import Location, PythonRef


def figure(metric, *batches, module=None, output="y"):
    """Compute a metric over batches of (outputs, targets)."""
    state = metric.start(module)
    for outputs, targets in batches:
        state.update({output: np.asarray(outputs)}, targets)
    return state.compute()


LOGITS = [[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [5.0, 4.0, 4.5]]


class TestClasses:
    def test_accuracy_over_batches(self):
        assert figure(Accuracy(), (LOGITS[:2], [0, 0]), (LOGITS[2:], [0])) == pytest.approx(2 / 3)

    def test_accuracy_among_the_best(self):
        assert figure(Accuracy(top=2), (LOGITS, [1, 0, 2])) == pytest.approx(2 / 3)

    def test_one_hot_targets_and_a_pooled_output(self):
        assert figure(Accuracy(), (np.reshape(LOGITS, (3, 3, 1, 1)), np.eye(3))) == pytest.approx(2 / 3)

    def test_one_score_against_a_threshold(self):
        assert figure(Accuracy(threshold=0.6), ([[0.5], [0.7], [0.9]], [0, 1, 0])) == pytest.approx(2 / 3)

    def test_classes_as_output(self):
        assert figure(Accuracy(), (np.array([2, 1]), [2, 2])) == 0.5

    def test_f1_is_scikit_learns(self):
        """Class 0: precision 1/2, recall 1; class 1: 1, 1/2; class 2: no answer right."""
        predictions = np.eye(3)[[0, 0, 1, 1, 1]]
        targets = [0, 1, 1, 1, 2]
        expected = np.mean([2 / 3, 2 / 3, 0.0])
        assert figure(F1(), (predictions[:2], targets[:2]), (predictions[2:], targets[2:])) == pytest.approx(expected)
        assert figure(F1(average="micro"), (predictions, targets)) == pytest.approx(3 / 5)

    def test_binary_f1_needs_two_classes(self):
        with pytest.raises(DataError, match="more than two classes"):
            figure(F1(average="binary"), (np.eye(3), [0, 1, 2]))

    def test_cross_entropy_of_logits_and_of_probabilities(self):
        expected = math.log(1 + math.exp(-2))
        assert figure(CrossEntropy(), ([[2.0, 0.0]], [0])) == pytest.approx(expected)
        probabilities = [[math.exp(-expected), 1 - math.exp(-expected)]]
        assert figure(CrossEntropy(kind="probabilities"), (probabilities, [0])) == pytest.approx(expected)

    def test_huge_logits_do_not_overflow(self):
        assert figure(CrossEntropy(), (np.array([[1e4, -1e4]], np.float32), [1])) == pytest.approx(2e4)

    def test_a_class_the_output_lacks(self):
        with pytest.raises(DataError, match="a target is class 7, the output has 3"):
            figure(CrossEntropy(), (LOGITS, [0, 1, 7]))

    def test_text_is_no_class(self):
        with pytest.raises(DataError, match=r"`accuracy` needs a class number as each sample's target; .* 'cat'"):
            figure(Accuracy(), (LOGITS, ["cat", "dog", "cat"]))

    def test_an_output_of_pixels_is_refused(self):
        with pytest.raises(DataError, match=r"shape \[3, 4, 5\] for 3 samples; one score for each class"):
            figure(Accuracy(), (np.zeros((3, 4, 5)), [0, 1, 2]))

    def test_more_best_classes_than_there_are(self):
        with pytest.raises(DataError, match="only 3 classes"):
            figure(Accuracy(top=5), (LOGITS, [0, 1, 2]))


class TestNumbers:
    def test_mse(self):
        assert figure(MeanSquaredError(), ([[1.0, 2.0]], [[1.0, 4.0]]), ([[0.0, 0.0]], [[1.0, 1.0]])) == pytest.approx(
            1.5
        )

    def test_mse_of_scalar_targets(self):
        assert figure(MeanSquaredError(), ([[1.0], [3.0]], [1.0, 5.0])) == pytest.approx(2.0)

    def test_another_shape_is_refused(self):
        with pytest.raises(DataError, match=r"a target has the shape \[3\], the output \[2\]"):
            figure(MeanSquaredError(), ([[1.0, 2.0]], [[1.0, 2.0, 3.0]]))

    def test_cosine(self):
        assert figure(
            Cosine(), ([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
        ) == pytest.approx((1 + math.sqrt(0.5) + 0) / 3)

    def test_an_unknown_output_is_named(self):
        with pytest.raises(DataError, match="no output `lgits`, it has `logits`; did you mean `logits`"):
            figure(Accuracy(output="lgits"), (LOGITS, [0, 1, 2]), output="logits")


def path(*classes, of=4):
    """Logits [1, time, classes] whose best path is given."""
    return np.eye(of, dtype=np.float32)[list(classes)][None]


class TestText:
    def test_best_path_merges_repeats_and_drops_blanks(self):
        assert best_path(path(0, 1, 1, 0, 1, 2, 2, 0)[0], 0) == [1, 1, 2]
        assert best_path(path(3, 0, 0, 3, 3)[0], 3) == [0]

    def test_cer_is_of_all_characters(self):
        """ "ab" read as "ab" and "abc" as "a": 2 edits of 5 characters, not the mean of 0 and 2/3."""
        metric = CharacterErrorRate(charset=("abc",))
        assert figure(metric, (path(1, 2), ["ab"]), (path(1, 0), ["abc"])) == pytest.approx(2 / 5)

    def test_exact_and_case(self):
        assert figure(ExactMatch(charset=("abc",)), (np.concatenate([path(1, 2), path(1, 0)]), ["ab", "b"])) == 0.5
        assert figure(ExactMatch(charset=("abc",), ignore_case=True), (path(1, 2), ["AB"])) == 1

    def test_wer_of_text_outputs(self):
        texts = np.array(["the cat sat", "on mat"], dtype=object)
        assert figure(WordErrorRate(decode="text"), (texts, ["the cat sat", "on the mat"])) == pytest.approx(1 / 6)

    def test_a_blank_at_the_end_and_time_first(self):
        metric = ExactMatch(charset=("a", "b", "c"), blank=-1, layout="tnc")
        assert figure(metric, (path(3, 0, 3, 1).transpose(1, 0, 2), ["ab"])) == 1

    def test_spaces_count_at_the_ends_and_an_empty_target_costs_its_insertions(self):
        metric = CharacterErrorRate(decode="text")
        assert figure(metric, (np.array([" a"], dtype=object), ["a"])) == pytest.approx(1)
        assert figure(metric, (np.array(["xy", "abcd"], dtype=object), ["", "abcd"])) == pytest.approx(0.5)

    def test_a_character_set_from_a_file(self, tmp_path):
        (tmp_path / "keys.txt").write_text("a\n\u2028\nc\n", encoding="utf-8")
        metric = ExactMatch(charset_file=Location("keys.txt", str(tmp_path)))
        assert figure(metric, (path(1, 2), ["a\u2028"])) == 1

    def test_paddles_space_comes_after_its_dictionary(self):
        assert figure(ExactMatch(charset=("ab",)), (path(1, 3, 2), ["a b"])) == 1

    def test_another_models_characters_are_refused(self):
        with pytest.raises(
            DataError, match=r"5 characters are known, but the output has 4 classes \(one of them the blank"
        ):
            figure(CharacterErrorRate(charset=("abcde",)), (path(1), ["a"]))

    def test_no_characters_are_an_error(self):
        with pytest.raises(DataError, match=r"no characters are known .* give `charset=\[…\]` or `charset_file=…`"):
            figure(CharacterErrorRate(), (path(1), ["a"]))

    def test_targets_must_be_text(self):
        with pytest.raises(DataError, match="needs text as each sample's target, not 3"):
            figure(CharacterErrorRate(charset=("abc",)), (path(1), [3]))

    def test_targets_must_not_all_be_empty(self):
        with pytest.raises(DataError, match="every target is empty"):
            figure(CharacterErrorRate(charset=("abc",)), (path(1), [""]))

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"`charset_file`: `keys\.txt`: nothing at"):
            CharacterErrorRate(charset_file=Location("keys.txt", str(tmp_path))).start()

    def test_a_real_recogniser_reads_a_rendered_line(self, packaged):
        """PP-OCRv4's characters come from its metadata, through the module and through the file alike."""
        pil = pytest.importorskip("PIL.Image")
        from PIL import ImageDraw, ImageFont

        text = "Compilers 4 models"
        canvas = pil.new("RGB", (520, 48), "white")
        ImageDraw.Draw(canvas).text((8, 4), text, fill="black", font=ImageFont.load_default(32))
        pixels = (np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5
        file = packaged("rec_v4")
        outputs = next(iter(OrtRunner(file).run({"x": pixels}).values()))
        assert figure(ExactMatch(), (outputs, [text]), module=load(file)) == 1
        by_file = CharacterErrorRate(charset_file=Location(str(file)))
        assert figure(by_file, (outputs, [text])) == 0
        assert figure(by_file, (outputs, [text.replace("4", "5")])) == pytest.approx(1 / len(text))


class TestPython:
    def reference(self, tmp_path, source, name="metric"):
        (tmp_path / "m.py").write_text(source, encoding="utf-8")
        return PythonRef(Location("m.py", str(tmp_path)), name)

    def test_a_function_sees_the_whole_split(self, tmp_path):
        reference = self.reference(
            tmp_path, "def metric(outputs, targets, scale=1):\n    return scale * (outputs['y'].sum() + sum(targets))\n"
        )
        assert figure(PythonMetric(reference, args={"scale": 10}), ([[1.0], [2.0]], [1, 1]), ([[3.0]], [1])) == 90

    def test_unequal_outputs_come_as_a_list_of_samples(self, tmp_path):
        reference = self.reference(
            tmp_path, "def metric(outputs, targets):\n    return [len(y) for y in outputs['y']] == [2, 3, 3]\n"
        )
        assert figure(PythonMetric(reference), (np.zeros((1, 2)), [0]), (np.zeros((2, 3)), [0, 0])) == 1

    def test_a_class_is_fed_batch_by_batch(self, tmp_path):
        source = """
class metric:
    def __init__(self, start): self.batches = start
    def update(self, outputs, targets): self.batches += 1
    def compute(self): return self.batches
"""
        assert (
            figure(PythonMetric(self.reference(tmp_path, source), args={"start": 5}), ([1.0], [1]), ([1.0], [1])) == 7
        )

    @pytest.mark.parametrize(
        ("source", "told"),
        [
            (
                "def metric(outputs, targets):\n    return outputs['z']\n",
                r"KeyError: 'z'\n  at m\.py:2: return outputs\['z'\]",
            ),
            ("def metric(outputs, targets):\n    return 'good'\n", "returned 'good'; a metric is one number"),
            ("def metric(outputs, targets):\n    return [1, 2]\n", "a metric is one number"),
            ("class metric:\n    def update(self, o, t): pass\n", "is a class without `compute`"),
            ("metric = 3\n", "is an int, not a function"),
        ],
        ids=["raises", "text", "two numbers", "half a class", "no function"],
    )
    def test_mistakes(self, tmp_path, source, told):
        with pytest.raises(DataError, match=told):
            figure(PythonMetric(self.reference(tmp_path, source)), ([1.0], [1]))


def test_goals():
    assert PythonMetric(PythonRef(Location("m.py"), "m"), goal="min").goal == "min"
    assert [metric.goal for metric in (Accuracy, F1, ExactMatch, Cosine)] == ["max"] * 4
    assert [m.goal for m in (CharacterErrorRate, WordErrorRate, MeanSquaredError, CrossEntropy)] == ["min"] * 4
