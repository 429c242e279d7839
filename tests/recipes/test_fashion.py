"""`fashion.mopt`: its data, its weights, and the recipe from end to end on a small stand-in for the data set."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import mopt
import numpy as np
import pytest
from mopt.recipes.fashion.data import DEBIAN, fashion, read, scaled

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files like the data set's: the images that `vit` brings, those to train on shifted, mirrored and darkened."""
    place = tmp_path_factory.mktemp("fashion-mnist")
    generator = np.random.default_rng(0)
    with np.load(RECIPES / "vit" / "sample.npz") as arrays:
        images, labels = arrays["calib_images"], arrays["calib_labels"]
        many = generator.integers(0, len(images), 800)
        shifted = np.stack([np.roll(images[one], generator.integers(-1, 2, 2), (0, 1)) for one in many])
        darker = (shifted * generator.uniform(0.8, 1, (800, 1, 1))).astype(np.uint8)
        write(place, "train", darker, labels[many])
        write(place, "t10k", arrays["test_images"], arrays["test_labels"])
    return place


def write(place: Path, part: str, images: Any, labels: Any) -> None:
    header = np.array([2051, *images.shape], ">i4").tobytes()
    (place / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    header = np.array([2049, len(labels)], ">i4").tobytes()
    (place / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.astype(np.uint8).tobytes()))


def test_splits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = fashion(str(folder), train=600, test=400)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 600, "mirrored": 1200, "held": 160, "test": 400,
    }  # fmt: skip
    one = splits["train"][5]
    assert (one["image"].shape, one["image"].dtype) == ((1, 28, 28), np.float32)
    assert 0 <= one["image"].min() < one["image"].max() <= 1
    other = splits["mirrored"][605]
    assert np.array_equal(other["image"], one["image"][:, :, ::-1])
    assert other["target"] == one["target"]
    assert [sample["target"] for sample in splits["held"]] == read("train", folder)[1][-160:].tolist()
    with pytest.raises(IndexError):
        splits["test"][400]
    monkeypatch.setenv("FASHION_MNIST", str(folder))
    assert len(fashion()["train"]) == 640


def test_a_missing_data_set_is_told_with_its_package(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`dataset-fashion-mnist`, or set FASHION_MNIST"):
        fashion(str(tmp_path))


def test_where_the_data_set_is_missing_a_row_says_so(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra `torch`")
    results = mopt.compile_recipe(
        RECIPES / "fashion.mopt", output=tmp_path / "out", store=tmp_path / "store", profile="never",
        only=["int8_static"], settings={"folder": str(tmp_path / "none")},
    )  # fmt: skip
    (failure,) = {row.failure for row in results.rows if row.pipeline == "int8_static"}
    assert failure is not None
    assert "dataset-fashion-mnist" in str(failure)


def trained() -> Any:
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    from mopt.recipes.fashion.model import FashionNet
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    network = FashionNet().eval()
    weights = load_file(RECIPES / "fashion" / "weights.safetensors")
    missing = network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    assert not missing.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in missing.missing_keys)
    return network


def accuracy(network: Any, images: Any, labels: Any) -> float:
    import torch

    with torch.inference_mode():
        found = [network(chunk).argmax(1).numpy() for chunk in torch.from_numpy(scaled(images)).split(500)]
    return float(np.mean(np.concatenate(found) == labels))


def test_trained_weights_know_clothes(folder: Path) -> None:
    assert accuracy(trained(), *read("t10k", folder)) >= 0.9


def test_trained_weights_know_the_whole_test_set() -> None:
    if not DEBIAN.is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    images, labels = read("t10k", DEBIAN)
    assert accuracy(trained(), images, labels) == pytest.approx(0.922, abs=0.002)


@pytest.mark.slow
def test_integers_from_end_to_end(folder: Path, tmp_path: Path) -> None:
    """On 500 images to judge and 640 to train on, of which 160 are different ones: looser than the recipe's figures."""
    pytest.importorskip("torch", reason="needs the extra `torch`")
    results = mopt.compile_recipe(
        RECIPES / "fashion.mopt", output=tmp_path / "out", store=tmp_path / "store", profile="never",
        only=["original", "narrow", "int8_static", "int4_static", "int4"],
        settings={"folder": str(folder), "steps": 40},
    )  # fmt: skip
    rows = {row.pipeline: row for row in results.rows}
    found = {name: row.metrics["accuracy"] for name, row in rows.items()}
    assert not [row.failure for row in results.rows if row.failure]
    assert found["original"] >= 0.9
    assert found["narrow"] >= 0.7
    assert rows["narrow"].parameters < 0.3 * rows["original"].parameters
    assert found["int8_static"] >= found["original"] - 0.01
    assert found["int4"] >= found["original"] - 0.04
    assert found["int4"] >= found["int4_static"] + 0.02
    assert rows["int8_static"].bytes < 0.32 * rows["original"].bytes
