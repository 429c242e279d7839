"""Pictures of text lines, as inputs of image models.

Noise leaves a text detector's output at zero everywhere (measured: exactly 0 for PP-OCRv3's), and two broken models
that both say 0 look equal. Letters on paper make detectors, recognisers and classifiers answer.
"""

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# Five columns by seven rows, a row the bits of a number: E H T L O F S P.
_LETTERS: Final = (
    (31, 16, 16, 30, 16, 16, 31), (17, 17, 17, 31, 17, 17, 17), (31, 4, 4, 4, 4, 4, 4), (16, 16, 16, 16, 16, 16, 31),
    (14, 17, 17, 17, 17, 17, 14), (31, 16, 16, 30, 16, 16, 16), (15, 16, 16, 14, 1, 1, 30),
    (30, 17, 17, 30, 16, 16, 16),
)  # fmt: skip
_WIDTH, _HEIGHT = 5, 7
_NOISE: Final = 0.3


def text_images(shape: tuple[int, int, int, int], rng: np.random.Generator) -> Array:
    """Draw dark letters (-1) on light paper (1), with noise of 0.3: f32[N, C, H, W], every picture another text."""
    count, channels, height, width = shape
    scale = max(1, min(4, min(height, width) // 24))
    paper = np.ones((count, height, width), dtype=np.float32)
    letters = _letters(scale)
    for picture in paper:
        # A line that fits is centred; a picture lower or narrower than a letter stays empty.
        top = (height - _HEIGHT * scale) % (10 * scale) // 2
        for y in range(top, height - _HEIGHT * scale + 1, 10 * scale):
            start = int(rng.integers(0, max(1, min(6 * scale, width - _WIDTH * scale + 1))))
            for x in range(start, width - _WIDTH * scale + 1, 6 * scale):
                letter = int(rng.integers(0, len(letters) + 1))
                if letter < len(letters):  # else a space
                    picture[y : y + _HEIGHT * scale, x : x + _WIDTH * scale] -= 2 * letters[letter]
    noise = rng.standard_normal((count, channels, height, width), dtype=np.float32)
    drawn: Array = paper[:, None] + np.float32(_NOISE) * noise
    return drawn


@functools.cache
def _letters(scale: int) -> tuple[Array, ...]:
    rows = np.array(_LETTERS)[..., None] >> np.arange(_WIDTH - 1, -1, -1) & 1
    return tuple(letter.repeat(scale, 0).repeat(scale, 1).astype(np.float32) for letter in rows)
