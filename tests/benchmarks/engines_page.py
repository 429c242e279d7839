"""Write `docs/engines.md` from `results/engines.json`: `python tests/benchmarks/engines_page.py`; a test compares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "engines.md"
RESULTS = HERE / "results" / "engines.json"
KINDS: Final = ("float16 static", "float16 dynamic batch", "int8 static", "int8 dynamic batch")
LIBRARIES: Final = {"tensorrt_rtx": "TensorRT for RTX", "tensorrt": "TensorRT"}

_TEXT: Final = """\
# Engines built without a GPU

Every model of the packages in `tests/models.txt` through `trt(precision=fp16, capabilities=[{capabilities}])`: one
engine for all of these GPUs, built by {library} on a machine that has none. {built} of {asked} build.
Written by `tests/benchmarks/engines_page.py` from what `python .ci/tasks.py bench engines` left; see
[targets](targets.md).

A cell is the engine's size, and how many of its layers take int8, of those that stand for nodes of the model. Dynamic
batches are 1 to 8 (of `silero-vad-16k-sequence`, whose batch is fixed, the length), other sizes are fixed, and scalar
inputs that a graph branches on have one value (Silero's sampling rate). int8 is `quantize.static(placement=tensorrt)`
with float16 elsewhere.

{table}

An engine is weights and the code of kernels. {wider} of the {both} int8 engines are larger than the float16 one of the
same model and sizes: int8 weights take half the bytes, but {library} puts what follows an int8
convolution, from its bias to the next QuantizeLinear, into a kernel of its own, which a float16 convolution holds
itself. Where weights are many, int8 engines are smaller (MiniLM, the CRNN).

## What does not build, and why

{refused}

The nine `light_*` models of the `onnx` package are not in the list: they carry no weights of their own.
"""


def load() -> Any:
    """Return the results."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def page() -> str:
    """Return the page."""
    results = load()
    rows: Mapping[str, Mapping[str, Any]] = results["rows"]
    models = list(dict.fromkeys(key.split(" ", 1)[0] for key in rows))
    table = [f"| model | {' | '.join(KINDS)} |", "|---" + "|---:" * len(KINDS) + "|"]
    table += [f"| {model} | {' | '.join(_cell(rows[f'{model} {kind}']) for kind in KINDS)} |" for model in models]
    pairs = [
        (rows[f"{model} float16 {shape}"], rows[f"{model} int8 {shape}"])
        for model in models
        for shape in ("static", "dynamic batch")
    ]
    pairs = [pair for pair in pairs if all(row["ok"] for row in pair)]
    refused = [f"- {key}: {row['reason']}" for key, row in rows.items() if not row["ok"]]
    return _TEXT.format(
        capabilities=", ".join(results["capabilities"]),
        library=", ".join(f"{LIBRARIES[name]} {version}" for name, version in results["library"].items()),
        built=sum(row["ok"] for row in rows.values()),
        asked=len(rows),
        table="\n".join(table),
        wider=sum(eight["bytes"] > half["bytes"] for half, eight in pairs),
        both=len(pairs),
        refused="\n".join(refused) or "Everything builds.",
    )


def _cell(row: Mapping[str, Any]) -> str:
    if not row["ok"]:
        return "no"
    eight = sum(count for kind, count in row["precisions"].items() if kind.startswith("i8"))
    of = f", {eight} of {sum(row['precisions'].values())}" if eight else ""
    return f"{row['bytes'] / 2**20:.1f} MiB{of}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
