"""The two networks of `crnn.mopt`: the same function, that reads numbers it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mopt.recipes.crnn.data import glyphs, numbers

FOLDER = Path(__file__).parents[2] / "recipes" / "crnn"


def test_data_is_the_same_for_the_same_seed() -> None:
    first, second, other = numbers(test=20, train=5), numbers(test=20, train=5), numbers(seed=1, test=20, train=5)
    for a, b in zip(first["test"], second["test"], strict=True):
        assert a["target"] == b["target"]
        np.testing.assert_array_equal(a["image"], b["image"])
    assert [sample["target"] for sample in first["test"]] != [sample["target"] for sample in other["test"]]


def test_samples() -> None:
    for sample in numbers(test=50, train=1)["test"]:
        image, text = sample["image"], sample["target"]
        assert (image.shape, image.dtype) == ((1, 16, 112), np.float32)
        assert 0 <= image.min() < image.max() <= 1
        assert 3 <= len(str(text)) <= 6
        assert str(text).isdigit()


def test_no_digit_of_the_test_part_is_trained_on() -> None:
    known, unknown = glyphs()
    for digit in range(10):
        assert not {image.tobytes() for image in known[digit]} & {image.tobytes() for image in unknown[digit]}


def _error_rate(logits: np.ndarray, texts: list[str]) -> float:
    from mopt.runtime.judge.metrics import CharacterErrorRate

    state = CharacterErrorRate(charset=("0123456789",)).start()
    state.update({"logits": logits}, texts)
    return state.compute()


def test_pytorch_and_keras_are_the_same_function_and_read_well() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    keras = pytest.importorskip("keras", reason="needs the extra `tensorflow`")
    from mopt.recipes.crnn.model import CRNN
    from safetensors.torch import load_file

    network = CRNN().eval()
    network.load_state_dict(load_file(FOLDER / "weights.safetensors"))
    twin = keras.saving.load_model(FOLDER / "crnn.keras", compile=False)
    test = numbers(test=200, train=1)["test"]
    images, texts = np.stack([sample["image"] for sample in test]), [str(sample["target"]) for sample in test]
    with torch.inference_mode():
        logits = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(np.asarray(twin(images)), logits, atol=1e-4)
    assert logits.shape == (200, 28, 11)
    assert _error_rate(logits, texts) < 0.02
    assert _error_rate(logits, texts[1:] + texts[:1]) > 0.5  # the metric does tell texts apart
