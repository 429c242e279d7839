"""The captcha recipe, judged on images that nothing was trained or chosen on, as JSON.

    python .ci/tasks.py bench captcha
    python tests/benchmarks/captcha_recipe.py --output captcha.json [--store FOLDER] [--images 1024] [--only PIPELINE …]

Compiles `captcha_recipe.mopt` of this folder (`recipes/captcha.mopt`, and what to compare its pipelines with) and runs
every emitted model with onnxruntime on images of another seed than all splits of the recipe. One thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from mopt.build.progress import PlainReporter
from mopt.driver import CompileOptions, compile_recipe
from mopt.ir import load
from mopt.recipes.captcha.data import CHARSET, captchas
from mopt.runtime.data.splits import as_split
from mopt.runtime.judge.evaluate import evaluate
from mopt.runtime.judge.metrics import CharacterErrorRate, ExactMatch
from mopt.runtime.ort import OrtRunner

RECIPE = Path(__file__).with_suffix(".mopt")
SEED = 1


def judged(path: Path, images: Any) -> dict[str, float]:
    """Return character error rate and the share of captchas that are read without an error, both in percent."""
    module = load(path)
    metrics = {"cer": CharacterErrorRate(charset=(CHARSET,)), "exact": ExactMatch(charset=(CHARSET,))}
    found = evaluate(OrtRunner(module), as_split(images, "unseen"), metrics, 32, module=module)
    return {name: round(100 * found[name], 3) for name in metrics}


def rows(results: Any, output: Path, images: Any) -> list[dict[str, Any]]:
    """Return a row for each pipeline: what it is, what it costs, what it reads, and how far from the original."""
    original: dict[str, Any] = {}
    found = []
    for row in results["rows"]:
        figures = judged(output / row["artifact"], images)
        made = {
            "pipeline": row["pipeline"],
            **{name: row[name] for name in ("parameters", "nonzero", "macs", "bytes", "compressed")},
            **figures,
            "recipe_cer": round(100 * row["metrics"]["cer"], 3),
            "steps": [step["text"] for step in results["steps"].get(row["pipeline"], [])],
            "requirements": [f"{one['text']}: {'held' if one['held'] else 'missed'}" for one in row["requirements"]],
        }
        original = original or made
        made["of_original"] = {
            name: round(made[name] / original[name], 4) for name in ("parameters", "nonzero", "macs", "bytes")
        }
        made["cer_lost"] = round(made["cer"] - original["cer"], 3)
        found.append(made)
        print(json.dumps(made), flush=True)
    return found


def main() -> None:
    """Compile, judge, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        options = CompileOptions(
            store=given.store or Path(folder) / "store",
            output=output,
            profile="never",
            **({"only": ("original", *given.only)} if given.only else {}),
        )
        with open(1, "w", encoding="utf-8", closefd=False) as log:
            results = compile_recipe(RECIPE, options, PlainReporter(log)).to_json()
        images = captchas(SEED, test=given.images)["test"]
        found = {
            "machine": f"one thread, onnxruntime {onnxruntime.__version__}, torch {torch.__version__}",
            "images": given.images,
            "characters": sum(len(sample["target"]) for sample in images[:]),
            "exit_status": results["exit_status"],
            "rows": rows(results, output, images),
        }
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
