"""The network of `quickstart.mopt`: its data, its weights, and the recipe from end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mopt.recipes.digits.data import arrays, digits


def test_data_is_split_once_and_for_all() -> None:
    first, second = digits(), digits()
    assert {name: len(split) for name, split in first.items()} == {"train": 1437, "calib": 256, "test": 360}
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(first["test"], second["test"], strict=True))
    sample = first["test"][0]
    assert (sample["image"].shape, sample["image"].dtype) == ((1, 8, 8), np.float32)
    images = np.stack([sample["image"] for sample in first["train"] + first["test"]])
    assert (images.min(), images.max()) == (0, 1)
    assert {sample["target"] for sample in first["test"]} == set(range(10))


def test_no_test_image_is_trained_on() -> None:
    (train, _), (test, _) = arrays()
    known = {image.tobytes() for image in train}
    assert not [image for image in test if image.tobytes() in known]


def test_trained_weights_read_the_digits_held_out() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    from mopt.recipes.digits.model import DigitNet
    from safetensors.torch import load_file

    network = DigitNet().eval()
    network.load_state_dict(load_file(Path(__file__).parents[2] / "recipes" / "digits" / "weights.safetensors"))
    _, (images, labels) = arrays()
    with torch.inference_mode():
        found = network(torch.from_numpy(images)).argmax(1).numpy()
    assert np.mean(found == labels) >= 0.985
