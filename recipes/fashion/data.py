"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747; MIT licence): grey images of 28×28 pixels in ten classes.

Read where it is installed: Debian's package `dataset-fashion-mnist`, or another folder with its four files, named by
the option `folder` or by the environment variable `FASHION_MNIST`.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
HELD = 5000
"""Training images, the last ones, that nothing trains on: what is chosen is chosen on them."""


def read(part: str, folder: str | Path = "") -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images u8[n, 28, 28] and labels u8[n] of one part, `train` or `t10k`.

    Args:
        part: what the files' names begin with.
        folder: where they are; empty: where the environment variable says, or Debian's package put them.

    Raises:
        FileNotFoundError: the data set is not there; the message says how to get it.
    """
    place = Path(folder or os.environ.get("FASHION_MNIST") or DEBIAN)
    images, labels = (place / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    for path in (images, labels):
        if not path.is_file():
            raise FileNotFoundError(
                f"Fashion-MNIST is not in `{place}` (`{path.name}` is missing): install Debian's package "
                "`dataset-fashion-mnist`, or set FASHION_MNIST to a folder with its four files"
            )
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    return pixels.reshape(-1, 28, 28), np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)


def scaled(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images u8[n, 28, 28] as the network takes them: f32[n, 1, 28, 28] in 0 to 1."""
    return images[:, None].astype(np.float32) / np.float32(255)


class Images(Sequence[Mapping[str, Any]]):
    """A split: samples with `image`, f32[1, 28, 28], and `target`, the class. With `mirrored`, each a second time."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.uint8], mirrored: bool = False) -> None:
        self._images, self._labels, self._mirrored = images, labels, mirrored

    def __len__(self) -> int:
        return len(self._images) * (2 if self._mirrored else 1)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        second, place = divmod(place, len(self._images))
        image = self._images[place : place + 1]
        (pixels,) = scaled(image[:, :, ::-1] if second else image)
        return {"image": pixels, "target": int(self._labels[place])}

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[place] for place in range(len(self)))


def fashion(folder: str = "", train: int = 55_000, test: int = 10_000) -> dict[str, Images]:
    """Return the splits of the recipe.

    Args:
        folder: see `read`.
        train: how many training images to take, from the first on.
        test: how many test images.

    Returns:
        `train`; `mirrored`: the same and their mirror images; `held`: the last training images, up to 5,000, no more
        than a fifth; `test`.
    """
    images, labels = read("train", folder)
    last_images, last_labels = read("t10k", folder)
    held = min(HELD, len(images) // 5)
    end = min(train, len(images) - held)
    return {
        "train": Images(images[:end], labels[:end]),
        "mirrored": Images(images[:end], labels[:end], mirrored=True),
        "held": Images(images[-held:], labels[-held:]),
        "test": Images(last_images[:test], last_labels[:test]),
    }
