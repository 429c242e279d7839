"""The task runner: `python .ci/tasks.py TASK …` with lint, format, types, test, test-fast, bench, all.

It needs the development extra: `pip install -c constraints.txt -e ".[dev,torch,tensorflow,tensorrt-rtx,models]"`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable, "-m"]


def run(*command: str) -> None:
    """Run a command in the repository's root; stop with its status if it fails."""
    print("$", " ".join(command), flush=True)
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if status:
        sys.exit(status)


def lint() -> None:
    """Check style and layout rules."""
    run(*PYTHON, "ruff", "check", ".")
    run(*PYTHON, "ruff", "format", "--check", ".")


def reformat() -> None:
    """Rewrite files in the canonical style."""
    run(*PYTHON, "ruff", "check", "--fix", ".")
    run(*PYTHON, "ruff", "format", ".")


def types() -> None:
    """Check types, strictly."""
    run(sys.executable, ".ci/typing_links.py")
    run(*PYTHON, "mypy", "-p", "mopt")


def test() -> None:
    """Run the whole test suite on all cores."""
    run(*PYTHON, "pytest", "-n", "auto", "--dist", "worksteal", *sys.argv[2:])


def test_fast() -> None:
    """Run the tests that take no more than some seconds."""
    run(*PYTHON, "pytest", "-m", "not slow", *sys.argv[2:])


def bench() -> None:
    """Run the benchmarks; results go to build/benchmarks/ as JSON."""
    run(sys.executable, "tests/benchmarks/run.py", *sys.argv[2:])


def everything() -> None:
    """Lint, types and tests, as CI does."""
    lint()
    types()
    test()


TASKS = {
    "lint": lint,
    "format": reformat,
    "types": types,
    "test": test,
    "test-fast": test_fast,
    "bench": bench,
    "all": everything,
}


def main() -> None:
    """Run the task named on the command line."""
    if len(sys.argv) < 2 or sys.argv[1] not in TASKS:
        print(__doc__)
        for name, task in TASKS.items():
            print(f"  {name:<10} {task.__doc__}")
        sys.exit(2)
    TASKS[sys.argv[1]]()


if __name__ == "__main__":
    main()
