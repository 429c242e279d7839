"""`captcha.mopt`: images are a pure function of the seed; its pipelines run, on a few images here."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import mopt
import numpy as np
import pytest

pytest.importorskip("captcha", reason="needs the extra `recipes`")

RECIPE = Path(__file__).parents[2] / "recipes" / "captcha.mopt"
FEW = {"samples": 32, "tested": 32}


def test_an_image_is_a_function_of_seed_split_and_number() -> None:
    from mopt.recipes.captcha.data import CHARSET, captchas, draw

    image, text = draw(0, "train", 3)
    random.seed(99)
    again, same = draw(0, "train", 3)
    assert image.shape == (1, 48, 160)
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() > 0.3
    assert text == same
    np.testing.assert_array_equal(image, again)
    assert len({draw(*key)[1] for key in ((0, "train", 3), (0, "test", 3), (1, "train", 3), (0, "train", 4))}) == 4
    splits = captchas(0, train=5)
    assert (len(splits["train"]), splits["train"][3]["target"], splits["train"][-2]["target"]) == (5, text, text)
    assert np.abs(splits["train"][3]["image"] - image).max() < 1 / 255
    assert set("".join(splits["train"][at]["target"] for at in range(5))) <= set(CHARSET)


def compiled(folder: Path, only: list[str], **settings: int) -> dict[str, Any]:
    torch = pytest.importorskip("torch", reason="needs the extra `torch`")
    pytest.importorskip("accelerate", reason="needs the extra `torch`")
    torch.set_num_threads(1)
    results = mopt.compile_recipe(
        RECIPE, output=folder / "out", store=folder / "store", profile="never", settings={**FEW, **settings}, only=only
    )
    assert all(row.failure is None for row in results.rows)
    return {row.pipeline.partition("[")[0]: row for row in results.rows}


def test_channels_are_pruned_and_what_is_left_trains(tmp_path: Path) -> None:
    """What comes of the error rate with the recipe's own budget, the benchmark measures."""
    rows = compiled(tmp_path, ["original", "narrow?parent=original?"])
    assert sorted(rows) == ["narrow", "original"]
    assert rows["original"].metrics["cer"] < 0.02
    assert rows["narrow"].macs <= 0.7 * rows["original"].macs
    assert rows["narrow"].metrics["cer"] < 0.5


@pytest.mark.slow
def test_pipelines_do_to_the_graph_what_they_say(tmp_path: Path) -> None:
    """Sizes do not depend on how long is trained."""
    kinds = ("narrow_convolutions", "sparse", "clustered", "int8", "distilled")
    rows = compiled(tmp_path, ["original", *(f"{kind}?*=original?" for kind in kinds)])
    assert sorted(rows) == sorted((*kinds, "original"))
    original = rows["original"]
    assert rows["narrow_convolutions"].macs <= 0.7 * original.macs
    assert rows["sparse"].nonzero <= 0.42 * original.parameters
    assert rows["clustered"].bytes <= 0.16 * original.bytes
    assert rows["int8"].bytes <= 0.28 * original.bytes
    assert rows["distilled"].parameters <= 0.62 * original.parameters


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs the extra `tensorflow`")
def test_a_student_from_pytorch_learns_from_keras(tmp_path: Path) -> None:
    row = compiled(tmp_path, ["distilled*=keras_original?"], samples=2000)["distilled"]
    assert row.metrics["cer"] < 0.9  # it has begun to read
