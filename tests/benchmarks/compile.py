"""How long mopt itself takes: a warm compile, checking a long recipe; and whether compiles are bit-identical.

CPU seconds of whole processes (user and system), the median of several runs. Models are hashed as emitted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WARM_RUNS = 5
COMPILES = 20


def mopt(*arguments: str, cwd: Path = ROOT) -> tuple[float, subprocess.CompletedProcess[str]]:
    """Run the command line; return its CPU seconds, those of its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "mopt.cli.main", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done


def warm_compile(recipe: str, folder: Path) -> dict[str, object]:
    """Compile once to fill the store, then time compiles that have nothing left to do."""
    arguments = ["compile", recipe, "-q", "-t", "cpu", "--store", str(folder / "store"), "-o", str(folder / "out")]
    cold, done = mopt(*arguments)
    assert done.returncode == 0, done.stderr + done.stdout
    warm = []
    for _ in range(WARM_RUNS):
        seconds, done = mopt(*arguments)
        assert done.returncode == 0, done.stderr
        warm.append(seconds)
    return {"recipe": recipe, "cold_cpu_s": cold, "warm_cpu_s": statistics.median(warm), "warm_runs": warm}


def long_recipe(lines: int) -> str:
    """A recipe of a given length in which every line matters."""
    head = [
        'model digits = onnx("m.onnx")',
        "data scans = random(inputs={x: f32[N, 8]}, samples=8, classes=2)",
        "evaluate(data=scans.test, metrics=[mse])",
    ]
    body: list[str] = []
    parent, number = "digits", 0
    while len(head) + len(body) + 6 <= lines:
        name = f"p{number}"
        body += [
            f"pipeline {name} = {parent} {{",
            "    simplify()",
            f"    prune.magnitude(amount={number % 90 + 1}%, scope=local)",
            "    require size <= 30MiB",
            "}",
            "",
        ]
        parent, number = (name, number + 1) if number % 5 else ("digits", number + 1)
    return "\n".join(head + body) + "\n"


def check_long_recipe(folder: Path) -> dict[str, object]:
    """Time `mopt check` on a 500-line recipe."""
    (folder / "m.onnx").write_bytes(b"not read by check")
    (folder / "long.mopt").write_text(long_recipe(500), encoding="utf-8")
    runs = []
    for _ in range(WARM_RUNS):
        seconds, done = mopt("check", "long.mopt", cwd=folder)
        assert done.returncode == 0, done.stderr
        runs.append(seconds)
    lines = len((folder / "long.mopt").read_text(encoding="utf-8").splitlines())
    return {"lines": lines, "cpu_s": statistics.median(runs), "runs": runs}


def identical(recipe: str, folder: Path, count: int) -> dict[str, object]:
    """Compile from an empty store again and again; hash every emitted model.

    For onnxruntime: TensorRT's builder times tactics, and does not promise equal bytes.
    """
    seen: dict[str, set[str]] = {}
    for number in range(count):
        place = folder / f"run{number}"
        folders = ("--store", str(place / "store"), "-o", str(place / "out"))
        _, done = mopt("compile", recipe, "-q", "-t", "cpu", "--profile", "never", *folders)
        assert done.returncode == 0, done.stderr + done.stdout
        for model in sorted((place / "out").rglob("*")):
            if model.suffix in (".onnx", ".engine"):
                digest = hashlib.sha256(model.read_bytes()).hexdigest()
                seen.setdefault(str(model.relative_to(place / "out")), set()).add(digest)
        shutil.rmtree(place)
        print(f"  compile {number + 1}/{count}", flush=True)
    different = sorted(name for name, digests in seen.items() if len(digests) > 1)
    return {"recipe": recipe, "compiles": count, "models": len(seen), "different": different}


def main() -> None:
    """Run everything and write the JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--compiles", type=int, default=COMPILES)
    options = parser.parse_args()
    results: dict[str, object] = {"machine": {"python": platform.python_version(), "cores": os.cpu_count()}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results["check"] = check_long_recipe(folder)
        print(json.dumps(results["check"]), flush=True)
        results["warm"] = [
            warm_compile(recipe, folder / Path(recipe).stem)
            for recipe in ("recipes/quickstart.mopt", "recipes/ocr.mopt")
        ]
        print(json.dumps(results["warm"]), flush=True)
        results["identical"] = identical("recipes/ocr.mopt", folder, options.compiles)
        print(json.dumps(results["identical"]), flush=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
