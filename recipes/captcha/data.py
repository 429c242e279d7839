"""Labelled captchas without end: images that the `captcha` package draws, seeded, with their text.

The package draws from `secrets`, which can't be seeded; while an image is drawn, a seeded stand-in takes its place.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 48, 160
LENGTHS = (4, 6)
CHARSET = "2345678bcdefgmnpwxy"
SIZES = {"train": 8192, "valid": 512, "calib": 256, "test": 1024}


class _Seeded:
    """What the `captcha` package calls of `secrets`, from a seeded generator."""

    def __init__(self, generator: random.Random) -> None:
        self._generator = generator

    def randbelow(self, limit: int) -> int:
        return self._generator.randrange(limit)

    def randbits(self, bits: int) -> int:
        return self._generator.getrandbits(bits)

    def choice(self, choices: Sequence[Any]) -> Any:
        return self._generator.choice(choices)


@contextmanager
def _drawing(generator: random.Random) -> Iterator[Any]:
    try:
        import captcha.image as package
    except ImportError as error:
        raise ImportError("captchas are drawn by the `captcha` package: pip install captcha") from error
    theirs = package.secrets  # type: ignore[attr-defined]
    package.secrets = _Seeded(generator)  # type: ignore[attr-defined, assignment]
    try:
        yield package.ImageCaptcha(WIDTH, HEIGHT, font_sizes=(34, 38, 42))
    finally:
        package.secrets = theirs  # type: ignore[attr-defined]


def draw(seed: int, split: str, index: int) -> tuple[NDArray[np.float32], str]:
    """Draw one captcha; a pure function of its arguments.

    Returns:
        The image, f32[1, 48, 160] in 0 (paper) to 1 (ink), and its text.
    """
    generator = random.Random(f"{seed} {split} {index}")
    text = "".join(generator.choice(CHARSET) for _ in range(generator.randint(*LENGTHS)))
    with _drawing(generator) as images:
        grey = np.asarray(images.generate_image(text).convert("L"), np.float32)
    image: NDArray[np.float32] = (1.0 - grey / 255.0)[None]
    return image, text


class Captchas(Sequence[Mapping[str, Any]]):
    """A split: samples with `image`, f32[1, 48, 160], and `target`, the text. Each is drawn once and then kept."""

    def __init__(self, seed: int, split: str, count: int) -> None:
        self._seed, self._split, self._count = seed, split, count
        self._kept: dict[int, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        if index not in self._kept:
            image, text = draw(self._seed, self._split, index)
            # Bytes are what the image has, and a quarter of the memory.
            self._kept[index] = {"image": np.round(image * 255).astype(np.uint8), "target": text}
        kept = self._kept[index]
        return {"image": kept["image"].astype(np.float32) / 255.0, "target": kept["target"]}


def captchas(seed: int = 0, **sizes: int) -> Mapping[str, Captchas]:
    """Return the splits `train`, `valid`, `calib` and `test`; `train=2000` changes how many samples one has."""
    return {split: Captchas(seed, split, sizes.get(split, count)) for split, count in SIZES.items()}
