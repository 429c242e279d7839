"""Seeded inputs of the simplify benchmark, chosen so that every output depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SAMPLE_RATE = 16000


def feeds(session: Any, shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Draw an array for every input of an onnxruntime session at the given shapes."""
    rng = np.random.default_rng(seed)
    found = {}
    for port in session.get_inputs():
        shape = shapes[port.name]
        if port.name == "sr":
            found[port.name] = np.array(SAMPLE_RATE, np.int64)
        elif "mask" in port.name:
            found[port.name] = (
                np.arange(shape[-1]) < rng.integers(shape[-1] // 2 + 1, shape[-1] + 1, shape[:-1])[..., None]
            ).astype(np.int64)
        elif "int" in port.type:
            found[port.name] = rng.integers(0, 2 if "type" in port.name else 1000, shape)
        elif port.name == "x" and len(shape) == 4:
            found[port.name] = _page(shape, rng)
        else:
            found[port.name] = rng.standard_normal(shape).astype(np.float16 if "16" in port.type else np.float32)
    return found


def _page(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Lines of dark marks on a light ground: white noise alone leaves a text detector's sigmoid saturated."""
    n, channels, height, width = shape
    rows, columns = np.mgrid[0:height, 0:width]
    marks = ((rows // 8) % 3 == 1) & ((columns // rng.integers(2, 5)) % 2 == 0)
    image = np.where(marks, -2.0, 2.0)[None, None]
    return (np.broadcast_to(image, (n, channels, height, width)) + 0.3 * rng.standard_normal(shape)).astype(np.float32)
