"""Quantisation-aware training: what it reaches at which bits, beside static quantisation at the same ones, as JSON.

    python .ci/tasks.py bench aware
    python tests/benchmarks/aware.py --output aware.json [--part bits|narrow|ocr] [--only NAME …]

Fashion-MNIST: the network of `recipes/fashion`, trained on the first 55,000 training images; judged on the 10,000 test
images; nothing is chosen on these. PP-OCRv4's recogniser: `recipes/ocr_aware.mopt`, whose options were chosen on lines
of other seeds. One thread. `static` rows of Fashion-MNIST are the graph that training starts from: `quantize.static`'s
placement, the ranges of least squared error for weights and activations (the largest magnitudes would do far worse at
few bits).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mopt
import mopt.recipes
import torch
from mopt.ir import Module, load, to_proto
from mopt.passes.quantize.aware import Aware
from mopt.runtime.data.splits import as_split
from mopt.runtime.judge.evaluate import evaluate
from mopt.runtime.judge.losses import CrossEntropy
from mopt.runtime.judge.metrics import Accuracy
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, LossRef, ModelRef

RECIPES = Path(mopt.recipes.__path__[0])
TRAIN, PARENT = DataRef("data", "train"), ModelRef("parent")
STATIC: dict[str, Any] = {"method": "lsq", "steps": 1, "rate": 0.0}
"""One step that moves nothing: the start of training, weights and activations on the ranges of least squared error."""

LABELS: dict[str, Any] = {"loss": LossRef("cross_entropy"), "teacher": PARENT, "alpha": 0.5, "batch": 64}
FASHION: dict[str, dict[str, Any]] = {
    "static, 8 bits": {**STATIC, **LABELS},
    "lsq, 8 bits": {**LABELS, "steps": 150, "rate": 5e-4},
    "pact, 8 bits": {**LABELS, "steps": 150, "rate": 5e-4, "method": "pact"},
    "minmax, 8 bits": {**LABELS, "steps": 150, "rate": 5e-4, "method": "minmax"},
    "static, 4 bits": {**STATIC, **LABELS, "weights": 4, "activations": 4},
    "lsq, 4 bits": {**LABELS, "steps": 300, "rate": 1e-3, "weights": 4, "activations": 4},
    "pact, 4 bits": {**LABELS, "steps": 300, "rate": 1e-3, "weights": 4, "activations": 4, "method": "pact"},
    "minmax, 4 bits": {**LABELS, "steps": 300, "rate": 1e-3, "weights": 4, "activations": 4, "method": "minmax"},
    "static, 4 bits, edges too": {**STATIC, **LABELS, "weights": 4, "activations": 4, "edges": 4},
    "lsq, 4 bits, edges too": {**LABELS, "steps": 300, "rate": 1e-3, "weights": 4, "activations": 4, "edges": 4},
    "static, 2 bits": {**STATIC, **LABELS, "weights": 2, "activations": 2},
    "lsq, 2 bits": {**LABELS, "steps": 300, "rate": 1e-3, "weights": 2, "activations": 2},
}


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Any]:
    """Open a progress bar that shows nothing."""
    yield SimpleNamespace(advance=lambda steps=1: None, describe=lambda text: None)


def context(train: Any, folder: Path, parent: Module | None = None) -> Any:
    """Return what the pass may ask for."""
    return SimpleNamespace(
        seed=0, bindings={}, scratch=folder, checkpoints=folder / "checkpoints", promises=(), progress=bar,
        loss=lambda reference: CrossEntropy(), split=lambda reference: as_split(train, str(reference)),
        module=lambda name: parent,
    )  # fmt: skip


def fashion_module() -> Module:
    """Return the trained network as a graph."""
    from mopt.recipes.fashion import model
    from safetensors.torch import load_file

    network = model.FashionNet().eval()
    weights = load_file(Path(model.__file__).with_name("weights.safetensors"))
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=False)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            network, (torch.zeros(2, 1, 28, 28),), path, input_names=["image"], output_names=["logits"],
            dynamic_axes={"image": {0: "N"}}, dynamo=False,
        )  # fmt: skip
        return load(path)


def run(module: Module, train: Any, test: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """Quantise a module in every way and judge what comes out, with onnxruntime."""

    def judged(candidate: Module) -> dict[str, Any]:
        found = evaluate(
            OrtRunner(candidate), as_split(test, "test"), {"accuracy": Accuracy()}, 100, module=candidate
        )  # fmt: skip
        size = len(to_proto(candidate).SerializeToString())
        return {"accuracy": round(found["accuracy"], 5), "bytes": size}

    results = [{"name": "float", **judged(module)}]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            start = time.process_time()
            made = Aware(TRAIN, device="cpu", **FASHION[name])
            result = made.run(module.clone(), context(train, Path(folder), module))
            seconds = time.process_time() - start
        told = [note.message for note in result.notes]
        results.append({"name": name, **judged(result.module), "cpu_s": round(seconds), "notes": told[:2]})
        print(json.dumps(results[-1]), flush=True)
    return results


def compiled(recipe: str, pipelines: Sequence[str]) -> list[dict[str, Any]]:
    """Compile a recipe from an empty store; return what it says of each pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        found = mopt.compile_recipe(
            RECIPES / recipe, output=Path(folder) / "out", store=Path(folder) / "store", profile="never",
            only=pipelines, progress=sys.stderr,
        )  # fmt: skip
    for row in found.rows:
        if row.failure:
            raise SystemExit(f"{recipe}, {row.pipeline}: {row.failure}")
    return [
        {
            "name": row.pipeline, "bytes": row.bytes, "parameters": row.parameters, "macs": row.macs,
            **{name: round(value, 5) for name, value in row.metrics.items() if value is not None},
        }
        for row in found.rows
    ]  # fmt: skip


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--part", choices=["bits", "narrow", "ocr"], help="default: all")
    parser.add_argument("--only", nargs="*", help="rows of `bits` to run; default: all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(given.output.read_text(encoding="utf-8")) if given.output.exists() else {}
    if given.part in (None, "bits"):
        from mopt.recipes.fashion.data import fashion

        splits = fashion()
        found = run(fashion_module(), splits["train"], splits["test"], given.only or list(FASHION))
        results["bits"] = merged(results.get("bits", []), found)
    if given.part in (None, "narrow"):
        results["narrow"] = compiled("fashion.mopt", ["original", "narrow", "narrow_int8"])
    if given.part in (None, "ocr"):
        results["ocr"] = compiled("ocr_aware.mopt", ["original", "static", "trained"])
    given.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def merged(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows with newer ones in place of older ones of the same name."""
    found = {row["name"]: row for row in [*old, *new]}
    return list(found.values())


if __name__ == "__main__":
    main()
