"""Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747; MIT licence): grey images of 28×28 pixels in ten classes.

`sample.npz` holds enough of it to run the recipe anywhere: 500 of the test images, and 160 of the training images for
passes that calibrate. The whole data set is read where it is installed: Debian's package `dataset-fashion-mnist`, or a
folder with the four files, named by the environment variable `FASHION_MNIST`.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = Path(__file__).with_name("sample.npz")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")

Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def read(part: str, folder: Path | None = None) -> Arrays:
    """Return images u8[n, 28, 28] and labels u8[n] of one part, `train` or `t10k`.

    Raises:
        FileNotFoundError: the data set is not there; the message says how to get it.
    """
    folder = folder or Path(os.environ.get("FASHION_MNIST", DEBIAN))
    images, labels = (folder / f"{part}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    for path in (images, labels):
        if not path.is_file():
            raise FileNotFoundError(
                f"Fashion-MNIST is not in `{folder}` (`{path.name}` is missing): install Debian's package "
                "`dataset-fashion-mnist`, or set FASHION_MNIST to a folder with its four files"
            )
    pixels = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16)
    return pixels.reshape(-1, 28, 28), np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)


def scaled(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return images u8[n, 28, 28] as the network takes them: f32[n, 1, 28, 28] in 0 to 1."""
    return images[:, None].astype(np.float32) / np.float32(255)


def _samples(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> list[dict[str, Any]]:
    return [{"image": image, "target": int(label)} for image, label in zip(scaled(images), labels, strict=True)]


def sample(target: str = "labels") -> dict[str, list[dict[str, Any]]]:
    """Splits `calib` (160 training images) and `test` (500 test images), from the file beside this one.

    Args:
        target: what a test image's target is: `labels`, or `classes`: what the trained network itself says, so that
            accuracy is agreement with it.
    """
    with np.load(SAMPLE) as arrays:
        return {
            "calib": _samples(arrays["calib_images"], arrays["calib_labels"]),
            "test": _samples(arrays["test_images"], arrays[f"test_{target}"]),
        }


def whole() -> dict[str, list[dict[str, Any]]]:
    """Splits `calib` (the first 512 training images) and `test` (all 10,000), from the installed data set."""
    images, labels = read("train")
    return {"calib": _samples(images[:512], labels[:512]), "test": _samples(*read("t10k"))}
