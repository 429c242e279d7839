"""The networks of the clustering benchmark: where each comes from, and what judges it on held-out samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mopt.ir import Module
from mopt.runtime.ort import OrtRunner
from prune_cases import Case, of_recipe
from prune_cases import cases as networks
from prune_judges import Judge, photographs, same_class
from sentences import CALIBRATION, same_meaning, tokens


@dataclass(frozen=True)
class Clustered:
    """One network.

    Attributes:
        name: what tables call it.
        obtain: makes its module, in an empty folder.
        judge: judges a file, beside which the float model's `float.onnx` lies.
        calib: calibration samples.
        sizes: of its dynamic dimensions, for timing.
        include: further kinds of weight to cluster.
        operators: what onnxruntime's dynamic quantiser is to quantise; None leaves it out.
    """

    name: str
    obtain: Callable[[Path], Module]
    judge: Judge
    calib: Callable[[], list[Any]]
    sizes: dict[str, int] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    operators: tuple[str, ...] = ("Conv", "MatMul")


def same_clothes(path: Path) -> dict[str, float]:
    """How often the class is the float model's, on Fashion-MNIST: all of its test set where it is installed."""
    images = np.stack([sample["image"] for sample in _clothes()["test"]])
    with OrtRunner(path) as smaller, OrtRunner(path.with_name("float.onnx")) as whole:
        found = [
            np.concatenate([next(iter(one.run({"image": part}).values())).argmax(1) for part in np.split(images, 10)])
            for one in (smaller, whole)
        ]
    return {"agreement": float(np.mean(found[0] == found[1]))}


@cache
def _clothes() -> dict[str, list[dict[str, Any]]]:
    data = of_recipe("vit", "data")
    try:
        found: dict[str, list[dict[str, Any]]] = data.whole()
    except FileNotFoundError:
        found = data.sample()
    return found


def cases() -> tuple[Clustered, ...]:
    """Every network."""
    known = {case.name: case for case in networks()}

    def read(name: str, operators: tuple[str, ...] = ("Conv", "MatMul")) -> Clustered:
        case: Case = known[name]
        assert case.judge is not None
        assert case.calib is not None
        return Clustered(name, case.obtain, case.judge, case.calib, case.sizes, operators=operators)

    minilm, mobilenet, vit = (known[name] for name in ("MiniLM-L6, a BERT", "MobileNetV2", "ViT of vit.mopt"))
    return (
        read("PP-OCRv4 recogniser"),
        read("PP-OCRv2 recogniser", ("Conv", "MatMul", "LSTM")),
        Clustered("MobileNetV2", mobilenet.obtain, same_class, lambda: photographs(0, 64), mobilenet.sizes),
        Clustered(
            "MiniLM-L6, a BERT", minilm.obtain, same_meaning, lambda: tokens()[CALIBRATION], minilm.sizes,
            ("embeddings",), ("MatMul", "Gather"),
        ),
        Clustered(
            "ViT of vit.mopt", vit.obtain, same_clothes, lambda: _clothes()["calib"][:160], vit.sizes,
            operators=("Conv", "MatMul"),
        ),
    )  # fmt: skip
