"""Write the tables of `docs/benchmarks.md` from the results kept under `results/`: `python tests/benchmarks/page.py`.

The page is `page.md` of this folder with its markers filled in; a test compares the two.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import page_aware  # noqa: E402
import page_prune  # noqa: E402
import page_quantize  # noqa: E402
import page_runtime  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "benchmarks.md"


def load(name: str) -> Any:
    """Return the results of a benchmark."""
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


def simplify_table(results: Any) -> str:
    """A row for each model: nodes and seconds of each tool."""
    lines = ["| model | before | onnxsim | onnxslim | mopt | max error |", "|---|---:|---:|---:|---:|---:|"]
    for row in results["rows"]:
        cells = [_tool(row["tools"].get(name, {})) for name in ("onnxsim", "onnxslim", "mopt")]
        error = row["tools"]["mopt"].get("error")
        shown = "structure only" if error is None else f"{error:.1e}"
        lines.append(f"| {row['model']} | {row['before']['nodes']} | {' | '.join(cells)} | {shown} |")
    return "\n".join(lines)


def _tool(result: Any) -> str:
    if "nodes" not in result:
        return "fails"
    mark = "" if result.get("loads", True) else "!"
    return f"{result['nodes']}{mark} ({result['seconds']:.2f} s)"


def worst_error(results: Any) -> str:
    """The largest error of mopt's outputs over all models."""
    return f"{max(row['tools']['mopt'].get('error') or 0.0 for row in results['rows']):.1e}"


def memory_table(results: Any) -> str:
    """Peak memory against the file."""
    return (
        "| file | peak, children included | ratio | seconds |\n|---:|---:|---:|---:|\n"
        f"| {results['file_bytes'] / 2**20:,.0f} MiB | {results['peak_bytes'] / 2**20:,.0f} MiB | "
        f"{results['ratio']:.2f} | {results['seconds']:.1f} |"
    )


def compile_table(results: Any) -> str:
    """CPU seconds of whole processes."""
    lines = ["| what | CPU s |", "|---|---:|"]
    lines.append(f"| `mopt check`, a recipe of {results['check']['lines']} lines | {results['check']['cpu_s']:.2f} |")
    for warm in results["warm"]:
        lines.append(f"| `mopt compile {warm['recipe']}`, nothing cached | {warm['cold_cpu_s']:.1f} |")
        lines.append(f"| the same again, nothing left to do | {warm['warm_cpu_s']:.2f} |")
    same = results["identical"]
    verdict = "all bit-identical" if not same["different"] else f"different: {', '.join(same['different'])}"
    compiles = f"{same['compiles']} compiles of `{same['recipe']}` from an empty store"
    lines += ["", f"{compiles}, {same['models']} models each: {verdict}."]
    return "\n".join(lines)


def page() -> str:
    """Return the page."""
    simplify = load("simplify")
    text = (HERE / "page.md").read_text(encoding="utf-8")
    for marker, value in {
        "SIMPLIFY_TABLE": simplify_table(simplify),
        "WORST": worst_error(simplify),
        "MEMORY_TABLE": memory_table(load("memory")),
        "PRUNE_TABLE": page_prune.prune_table(load("prune")),
        "PRUNE_PEERS": page_prune.prune_peers(load("prune")),
        "PRUNE_ACCURACY": page_prune.prune_accuracy(load("prune")),
        "TENTH_TABLE": page_prune.tenth_table(load("prune")),
        "CLUSTER_TABLE": page_prune.cluster_table(load("cluster")),
        "STATIC_TABLES": page_quantize.static_tables(load("quantize_recurrent")),
        "MOBILENET_CROPS": str(sum(load("quantize_mobilenet")["mopt"]["crops"])),
        "MOBILENET_TABLE": page_quantize.mobilenet_table(load("quantize_mobilenet")),
        "TRANSFORMER_TABLE": page_quantize.transformer_table(load("quantize_transformer")),
        "AWARE_BITS": page_aware.bits_table(load("aware")),
        "AWARE_NARROW": page_aware.narrow_table(load("aware")),
        "AWARE_OCR": page_aware.ocr_table(load("aware")),
        "PROFILER_TABLE": page_runtime.profiler_table(load("profiler")),
        "TRAINABLE_TABLE": page_runtime.trainable_table(load("trainable")),
        "COMPILE_TABLE": compile_table(load("compile")),
    }.items():
        text = text.replace(marker, value)
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
