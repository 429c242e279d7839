"""What judges a network of the pruning benchmark, on samples that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from mopt.ir import load
from mopt.runtime.contract import Metric
from mopt.runtime.data.splits import Samples
from mopt.runtime.judge.evaluate import evaluate
from mopt.runtime.ort import OrtRunner
from quantize_mobilenet import DEVIATION, FOLDS, MEAN, crops

Judge = Callable[[Path], dict[str, float]]


def judged(samples: Callable[[], list[Any]], metrics: Mapping[str, Metric]) -> Judge:
    """Metrics over samples; one at a time, since lines differ in width."""

    def judge(path: Path) -> dict[str, float]:
        test = samples()
        with OrtRunner(path) as runner:
            return evaluate(runner, Samples(test, len(test), "test"), metrics, module=load(path))

    return judge


@cache
def photographs(fold: int, count: int) -> list[dict[str, Any]]:
    """Crops of photographs for MobileNetV2: fold 0 to calibrate on, fold 1 to judge on."""
    return crops(FOLDS[fold], count, seed=fold)


@cache
def for_nsfw(fold: int, count: int) -> list[dict[str, Any]]:
    """The same crops as open-nsfw takes them: f32[224, 224, 3], blue first, less its means."""
    made = []
    for crop in photographs(fold, count):
        pixels = (crop["image"].transpose(1, 2, 0) * DEVIATION + MEAN) * 255
        made.append({"input:0": (pixels[..., ::-1] - np.array([104, 117, 123])).astype(np.float32)})
    return made


def _outputs(path: Path, samples: list[dict[str, Any]]) -> np.ndarray[Any, Any]:
    with OrtRunner(path) as runner:
        fed = ({name: array[None] for name, array in sample.items()} for sample in samples)
        return np.concatenate([next(iter(runner.run(feeds).values())) for feeds in fed])


def same_class(path: Path) -> dict[str, float]:
    """How often the class is the float model's, whose file lies beside; 200 crops."""
    smaller, whole = (_outputs(file, photographs(1, 200)).argmax(1) for file in (path, path.with_name("float.onnx")))
    return {"agreement": float(np.mean(smaller == whole))}


def same_score(path: Path) -> dict[str, float]:
    """How far the score follows the float model's, whose file lies beside; 100 crops."""
    both = [_outputs(file, for_nsfw(1, 100))[:, 1] for file in (path, path.with_name("float.onnx"))]
    return {"correlation": float(np.corrcoef(both)[0, 1])}
