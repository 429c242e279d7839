"""Numbers of three to six handwritten digits, composed from scikit-learn's digits."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, PITCH = 16, 112, 17
LENGTHS = (3, 6)


@functools.cache
def glyphs() -> tuple[dict[int, NDArray[np.float32]], dict[int, NDArray[np.float32]]]:
    """Return the digits of the training part and those of the test part: class → f32[n, 16, 16] in 0 to 1."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    halves = train_test_split(bunch.images / 16.0, bunch.target, test_size=0.2, stratify=bunch.target, random_state=0)
    train_x, test_x, train_y, test_y = halves
    train, test = (
        {digit: _enlarge(images[labels == digit]) for digit in range(10)}
        for images, labels in ((train_x, train_y), (test_x, test_y))
    )
    return train, test


def _enlarge(images: NDArray[np.float64]) -> NDArray[np.float32]:
    """Double height and width, bilinearly (half-pixel centres, edges repeated)."""
    at = np.clip((np.arange(HEIGHT) + 0.5) / 2 - 0.5, 0, 7)
    low = np.minimum(at.astype(int), 6)
    weight = at - low
    rows = images[:, low] * (1 - weight)[None, :, None] + images[:, low + 1] * weight[None, :, None]
    both = rows[:, :, low] * (1 - weight) + rows[:, :, low + 1] * weight
    enlarged: NDArray[np.float32] = both.astype(np.float32)
    return enlarged


def compose(
    digits: Mapping[int, NDArray[np.float32]], random: np.random.Generator, noise: float = 0.15
) -> tuple[NDArray[np.float32], str]:
    """Write one number: digits in a row, unevenly spaced, up to touching, with Gaussian noise of `noise`.

    Returns:
        The image, f32[1, 16, 112] in 0 to 1, and its text.
    """
    length = int(random.integers(LENGTHS[0], LENGTHS[1] + 1))
    text = "".join(str(digit) for digit in random.integers(0, 10, length))
    canvas = np.zeros((HEIGHT, WIDTH), np.float32)
    left = int(random.integers(0, WIDTH - PITCH * length + 1))
    for index, character in enumerate(text):
        choices = digits[int(character)]
        glyph = choices[random.integers(len(choices))]
        start = int(np.clip(left + index * PITCH + random.integers(-2, 3), 0, WIDTH - HEIGHT))
        drop = int(random.integers(-1, 2))
        window = canvas[max(drop, 0) : HEIGHT + min(drop, 0), start : start + HEIGHT]
        np.maximum(window, glyph[max(-drop, 0) : HEIGHT + min(-drop, 0)], out=window)
    canvas *= np.float32(random.uniform(0.6, 1.0))
    canvas += random.normal(0, noise, canvas.shape).astype(np.float32)
    return np.clip(canvas, 0, 1)[None], text


def numbers(seed: int = 0, test: int = 400, train: int = 2000) -> dict[str, list[dict[str, Any]]]:
    """Splits `train`, `calib` (the first 256 of it) and `test`; no digit of the test part is in the training part."""
    known, unknown = glyphs()
    splits = {}
    for name, source, count, stream in (("train", known, train, 1), ("test", unknown, test, 2)):
        random = np.random.default_rng([seed, stream])
        drawn = (compose(source, random) for _ in range(count))
        splits[name] = [{"image": image, "target": text} for image, text in drawn]
    return {"train": splits["train"], "calib": splits["train"][:256], "test": splits["test"]}
