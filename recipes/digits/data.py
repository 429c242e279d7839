"""scikit-learn's handwritten digits: 1,797 grey images of 8×8 pixels, split once and for all."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.float32], NDArray[np.int64]]


@functools.cache
def arrays() -> tuple[Arrays, Arrays]:
    """Return (images, labels) of the training and of the test part: f32[n, 1, 8, 8] in 0 to 1, i64[n].

    A fifth of every class is held out for testing; `train.py` never sees it.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images[:, None] / 16.0).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return (train_x, train_y), (test_x, test_y)


def digits() -> dict[str, list[dict[str, Any]]]:
    """Splits `train` (1,437 samples), `calib` (its first 256) and `test` (360)."""
    train, test = (
        [{"image": image, "target": int(label)} for image, label in zip(*part, strict=True)] for part in arrays()
    )
    return {"train": train, "calib": train[:256], "test": test}
