"""Static quantisation by mopt and by onnxruntime: accuracy, size, time (interleaved), calibration time, as JSON.

    python tests/benchmarks/quantize_static.py --out static.json [--lines 120]

Models: PP-OCRv4's recogniser (rendered lines; calibrated on the `calib` split) and detector (rendered pages;
calibrated on pages of another seed). Every candidate starts from the graph that `simplify()` gives. Times are of one
thread on onnxruntime's CPU provider; ratios are to the simplified float model, paired round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mopt.ir import Module, load, save
from mopt.passes.convert.opset import Opset
from mopt.passes.quantize.static import Static
from mopt.passes.simplify.simplify import Simplify
from mopt.runtime.data.splits import Samples
from mopt.runtime.judge.evaluate import evaluate
from mopt.runtime.judge.metrics import CharacterErrorRate, ExactMatch
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import profile
from mopt.values import DataRef, Location, Ratio

RECIPES = Path(__file__).parents[2] / "recipes" / "ocr"
MODELS = "pkg:rapidocr_onnxruntime/models/"


class Bar:
    """A progress bar that shows nothing."""

    def advance(self, steps: int = 1) -> None:
        """Count."""

    def describe(self, text: str) -> None:
        """Name."""


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Bar]:
    """Open a bar."""
    yield Bar()


def python(name: str) -> Any:
    """Import a file of the recipe."""
    spec = importlib.util.spec_from_file_location(f"ocr_{name}", RECIPES / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def context(samples: list[Any], folder: Path) -> Any:
    """Return what a pass may ask for."""
    split = Samples(samples, len(samples), "calib")
    return SimpleNamespace(seed=0, bindings={}, scratch=folder, progress=bar, split=lambda _: split)


def by_mopt(before: Module, calib: list[Any], folder: Path, path: Path, **options: Any) -> float:
    """Quantise by `quantize.static`; return the seconds it took."""
    start = time.perf_counter()
    result = Static(data=DataRef("d", "calib"), **options).run(before.clone(), context(calib, folder))
    seconds = time.perf_counter() - start
    save(result.module, path)
    return seconds


def by_onnxruntime(before: Module, calib: list[Any], folder: Path, path: Path, **options: Any) -> float:
    """Quantise by onnxruntime.quantization; return the seconds it took."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(calib)

        def get_next(self) -> dict[str, Any] | None:
            return next(({"x": sample["x"][None]} for sample in self.left), None)

    raised = folder / "raised.onnx"
    save(Opset(to=13).run(before.clone(), context(calib, folder)).module, raised)
    start = time.perf_counter()
    quantize_static(
        raised, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, **options,
    )  # fmt: skip
    return time.perf_counter() - start


def judge_lines(test: list[Any]) -> Callable[[Path, Path], dict[str, float]]:
    """Return a judge of recognisers: exact matches and character error rate."""

    def judge(path: Path, _: Path) -> dict[str, float]:
        metrics = {"exact": ExactMatch(), "cer": CharacterErrorRate()}
        return evaluate(OrtRunner(path), Samples(test, len(test), "test"), metrics, module=load(path))

    return judge


def judge_pages(test: list[Any], metrics: Any) -> Callable[[Path, Path], dict[str, float]]:
    """Return a judge of detectors: hmean, and how well the map and the boxes agree with the float model's."""

    def judge(path: Path, base: Path) -> dict[str, float]:
        score, ious, overlaps = metrics.Hmean(), [], []
        mine, float_one = OrtRunner(path), OrtRunner(base)
        for sample in test:
            feeds = {"x": sample["x"][None]}
            outputs = mine.run(feeds)
            score.update(outputs, [sample["target"]])
            (given,), (wanted,) = outputs.values(), float_one.run(feeds).values()
            one, two = given > metrics.THRESHOLD, wanted > metrics.THRESHOLD
            ious.append(float((one & two).sum() / max((one | two).sum(), 1)))
            found, boxes = metrics.boxes(given[0, 0]), metrics.boxes(wanted[0, 0])
            overlaps.append(metrics.matches(found, boxes, 0.9) / max(len(boxes), 1))
        return {"hmean": score.compute(), "map_iou": float(np.mean(ious)), "boxes_found": float(np.mean(overlaps))}

    return judge


def compare(
    name: str, calib: list[Any], judge: Callable[[Path, Path], dict[str, float]], ours: dict[str, Any], rounds: int
) -> dict[str, Any]:
    """Quantise one model in every way, judge and time the results."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        source = load(Location(f"{MODELS}{name}.onnx").resolve())
        files = {"original": folder / "original.onnx", "float": folder / "float.onnx"}
        save(source, files["original"])
        before = Simplify().run(source, context(calib, folder)).module
        save(before, files["float"])
        seconds: dict[str, float] = {}
        for label, options in ours.items():
            files[f"mopt {label}"] = folder / f"mopt_{label}.onnx"
            seconds[f"mopt {label}"] = by_mopt(before, calib, folder, files[f"mopt {label}"], **options)
        from onnxruntime.quantization import CalibrationMethod

        convs = ["Conv", "MatMul"]
        theirs: dict[str, dict[str, Any]] = {
            "all": {}, "conv+matmul": {"op_types_to_quantize": convs},
            "entropy": {"op_types_to_quantize": convs, "calibrate_method": CalibrationMethod.Entropy},
        }  # fmt: skip
        for label, options in theirs.items():
            path = folder / f"ort_{label}.onnx"
            try:
                seconds[f"onnxruntime {label}"] = by_onnxruntime(before, calib, folder, path, **options)
                files[f"onnxruntime {label}"] = path
            except Exception as error:
                seconds[f"onnxruntime {label}"] = float("nan")
                print(f"{name}: onnxruntime {label} fails: {error}")
        runners = {label: OrtRunner(path) for label, path in files.items()}
        feeds = {"x": calib[0]["x"][None]}
        timing = profile(runners, dict.fromkeys(runners, feeds), runs=rounds, baselines="float")
        rows = {}
        for label, path in files.items():
            rows[label] = {
                **judge(path, files["original"]), "mib": path.stat().st_size / 2**20,
                "quantise_seconds": seconds.get(label), "timing": timing[label].to_json(),
            }  # fmt: skip
            print(
                name, label, {key: value for key, value in rows[label].items() if key != "timing"}, timing[label].ratio
            )
        return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    data, metrics = python("data"), python("metrics")
    lines = data.lines(0, count=given.lines)
    results = {
        "recogniser": compare(
            "ch_PP-OCRv4_rec_infer", lines["calib"], judge_lines(lines["test"]),
            {method: {"method": method} for method in ("mse", "percentile", "entropy", "minmax")}, given.rounds,
        ),
        "detector": compare(
            "ch_PP-OCRv4_det_infer", data.pages(1, count=8)["test"], judge_pages(data.pages(0)["test"], metrics),
            {"mse": {}, "budget 10%": {"budget": Ratio(0.1)}}, given.rounds,
        ),
    }  # fmt: skip
    given.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
