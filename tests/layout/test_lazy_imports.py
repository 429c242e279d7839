"""Help, checking and formatting stay fast: they load none of the heavy packages."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "tensorflow", "onnxruntime", "onnx", "onnx_ir", "networkx", "numpy", "sklearn", "keras")
CPU_SECONDS = 0.3

COMMANDS = {
    "help": ["--help"],
    "check": ["check", "recipes/quickstart.mopt"],
    "fmt": ["fmt", "--check", "recipes/quickstart.mopt"],
    "passes": ["passes"],
    "one pass": ["passes", "prune.magnitude"],
    "explain": ["explain", "E0204"],
}

PROGRAM = """
import json, sys
sys.argv = ["mopt", *json.loads(sys.argv[1])]
from mopt.cli.main import main
try:
    main()
except SystemExit as stop:
    status = stop.code
heavy = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps({{"status": status, "heavy": heavy}}), file=sys.stderr)
"""


def run(arguments):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(heavy=HEAVY), json.dumps(arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(finished.stderr.splitlines()[-1]), cpu


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS.keys())
def test_loads_nothing_heavy(arguments):
    found, cpu = run(arguments)
    assert found == {"status": 0, "heavy": []}
    # CPU seconds, not wall time; the best of several, as another process may have emptied the caches.
    best = min([cpu, *(run(arguments)[1] for _ in range(4))])
    assert best < CPU_SECONDS
