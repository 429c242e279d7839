"""Write `docs/gpu.md` from `results/gpu.json`: `python tests/benchmarks/gpu_page.py`; a test compares the two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "gpu.md"
RESULTS = HERE / "results" / "gpu.json"

WAYS: Final = {
    "eager f32, gpu": "PyTorch f32", "eager f16, gpu": "PyTorch f16", "onnxruntime f32, cuda": "CUDA f32",
    "onnxruntime f16, cuda": "CUDA f16", "onnxruntime f16, cuda graph": "CUDA graph f16",
    "onnxruntime int8, cuda": "CUDA int8", "onnxruntime f16, tensorrt": "TensorRT provider f16",
    "onnxruntime int8, tensorrt": "TensorRT provider int8", "engine f32": "engine f32", "engine f16": "engine f16",
    "engine int8": "engine int8",
}  # fmt: skip
"""Ways on a GPU, and what the page calls them."""
BASES: Final = ("eager f16, gpu", "onnxruntime f16, cuda")
TARGETS: Final = (
    ("onnxruntime CUDA float16 over eager float32 PyTorch, ViT-base", "vit-base", "onnxruntime f16, cuda",
     "eager f32, gpu", 2.0),
    ("onnxruntime CUDA float16 over eager float32 PyTorch, MobileNetV2", "mobilenet-v2", "onnxruntime f16, cuda",
     "eager f32, gpu", 2.0),
    ("TensorRT-family int8 over its own float16, MobileNetV2", "mobilenet-v2", "engine int8", "engine f16", 1.3),
    ("TensorRT-family int8 over its own float16, open-nsfw", "open-nsfw", "engine int8", "engine f16", 1.3),
)  # fmt: skip
"""What is to be reached at batch 1: words, model, faster way, slower way, factor."""

_TEXT: Final = """\
# On a GPU

`python .ci/tasks.py bench gpu` runs the whole matrix: ViT-base, the models of the packages in `tests/models.txt` and
the recipes' networks; eager PyTorch, onnxruntime on the CPU, through CUDA (with and without a CUDA graph) and TensorRT,
engines of the `trt` target; float32, float16 and int8. All ways of a model run interleaved
([profiling](profiling.md)). What a way or a model needs and a machine lacks is a row with the reason, and the matrix
goes on. One JSON holds hardware, driver, versions, times with intervals, ratios with verdicts, nodes that fell back to
another provider, and joules a run.

A machine needs no installation and no network for it: Python, onnx, onnx-ir, onnxscript, onnxruntime, networkx and
rich, PyTorch for its rows, and as wheels what is missing (`lark`; `onnxruntime-gpu`, `nvidia-ml-py`, packages of
models).

```sh
python tests/benchmarks/gpu.py --output gpu.json                              # everything, batches 1 and 32
python tests/benchmarks/gpu.py --output gpu.json --only vit-base --batches 1  # one model
cp gpu.json tests/benchmarks/results/ && python tests/benchmarks/gpu_page.py  # this page
```

`pytest -m gpu` runs the tests that need a GPU; elsewhere they are skipped with that reason.

## Figures

{figures}
"""
NONE: Final = (
    "There are none: no NVIDIA GPU could be had so far, and no result of one is kept (`results/gpu.json`). On a\n"
    "machine without a GPU the benchmark runs to its end and gives the CPU's rows."
)


def page(results: Mapping[str, Any] | None) -> str:
    """Return the page; without results of a GPU it says that there are none."""
    if results is None or not results["machine"]["gpus"]:
        return _TEXT.format(figures=NONE)
    machine = results["machine"]
    names = ", ".join(f"{gpu['name']} (sm{gpu['capability'][0]}{gpu['capability'][1]})" for gpu in machine["gpus"])
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    batches = sorted({int(batch) for model in results["models"].values() for row in model.get("rows", {}).values()
                      for batch in row.get("batches", {})})  # fmt: skip
    parts = [f"{names}; {machine.get('driver', 'driver not told')}; {machine['processor']}; {versions}."]
    parts += [_targets(results["models"])]
    for batch in batches:
        parts += [
            f"### Batch {batch}: milliseconds a run (times as fast as the float16 baseline)",
            _table(results, batch),
        ]
    return _TEXT.format(figures="\n\n".join([*parts, _absent(results)]).rstrip())


def _targets(models: Mapping[str, Any]) -> str:
    lines = ["| at batch 1 | to reach | measured |", "|---|---:|---:|"]
    for words, model, fast, slow, factor in TARGETS:
        rows = models.get(model, {}).get("rows", {})
        times = [_row(rows, way, 1).get("median") for way in (fast, slow)]
        measured = f"{times[1] / times[0]:.2f} ×" if all(times) else "not measured"
        lines.append(f"| {words} | {factor:g} × | {measured} |")
    return "\n".join(lines)


def _table(results: Mapping[str, Any], batch: int) -> str:
    lines = [f"| model | {' | '.join(WAYS.values())} |", "|---|" + "---:|" * len(WAYS)]
    for name, model in results["models"].items():
        rows = model.get("rows", {})
        if any("median" in _row(rows, way, batch) for way in WAYS):
            lines.append(f"| {name} | {' | '.join(_cell(_row(rows, way, batch)) for way in WAYS)} |")
    return "\n".join(lines)


def _row(rows: Mapping[str, Any], way: str, batch: int) -> Mapping[str, Any]:
    return rows.get(way, {}).get("batches", {}).get(str(batch), {})


def _cell(row: Mapping[str, Any]) -> str:
    if "median" not in row:
        return "–"
    ratio = next((row["ratios"][base] for base in BASES if base in row["ratios"]), None)
    told = f"{row['median'] * 1e3:.3g}"
    if ratio is None:
        return told
    mark = "" if ratio["verdict"] != "no difference" else ", no difference"
    return f"{told} ({1 / ratio['value']:.2f} ×{mark})"


def _absent(results: Mapping[str, Any]) -> str:
    lines = [f"- {name}: {model['reason']}" for name, model in results["models"].items() if "reason" in model]
    lines += [
        f"- {name}, {way}: {row.get('reason') or row.get('fell_back')}"
        for name, model in results["models"].items()
        for way, row in model.get("rows", {}).items()
        if "reason" in row or "fell_back" in row
    ]
    return "### What did not run, or not all on the GPU\n\n" + "\n".join(lines) if lines else ""


def load() -> Any:
    """Return the kept results, or None."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else None


if __name__ == "__main__":
    PAGE.write_text(page(load()), encoding="utf-8")
