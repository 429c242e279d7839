"""Run the benchmarks and leave their results as JSON: `python .ci/tasks.py bench [NAME …]`.

Each benchmark is a script of this folder that takes `--output FILE`. Results go to `build/benchmarks/NAME.json`;
those that the documentation quotes are kept under `tests/benchmarks/results/`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCHMARKS = {
    "aware": "aware.py",
    "calibration": "calibration.py",
    "captcha": "captcha_recipe.py",
    "prune": "prune.py",
    "simplify": "simplify.py",
    "memory": "memory.py",
    "compile": "compile.py",
    "trainable": "trainable.py",
    "profiler": "profiler.py",
    "engines": "engines.py",
    "gpu": "gpu.py",
    "quantize_mobilenet": "quantize_mobilenet.py",
    "quantize_recurrent": "quantize_recurrent.py",
    "quantize_transformer": "quantize_transformer.py",
    "cluster": "cluster.py",
}


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    chosen = sys.argv[1:] or list(BENCHMARKS)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    folder = HERE.parents[1] / "build" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        print(f"== {name}", flush=True)
        subprocess.run(
            [sys.executable, str(HERE / BENCHMARKS[name]), "--output", str(folder / f"{name}.json")], check=True
        )


if __name__ == "__main__":
    main()
