"""Node counts, correctness and time of simplify() beside onnxsim and onnxslim, on the same files in the same run.

    python tests/benchmarks/simplify.py --output tests/benchmarks/results/simplify.json

Needs the peers (`pip install onnxsim onnxslim`) and the packages the models ship in (tests/models.txt); a model
whose package is missing is a row that says so. Each tool runs in a process of its own, so that a crash is a row, too.

Nodes are those of the main graph and of all graphs inside it. Constants are not counted, for nobody: neither
`Constant` nodes nor `ConstantOfShape` over a constant (a constant in compressed form; the `light_*` models of the onnx
package consist of them). They are listed beside the count, and so is the file's size, which shows what writing them
out costs. `mopt-written-out` writes them out as the peers do (`simplify(max_growth=1GiB)`).

Seconds are from file to file, imports and a first tiny model excluded, the best of up to ten runs in two rounds
in which the tools take turns (other processes only ever add to a time).
Errors are relative to the range of each output, over all sizes; `varies` is whether every output really depends on
the input there. Exit status 1 if simplify() falls behind: more nodes than the better peer, an output further off
than 1e-4, a file that is invalid or does not load, or more time than both peers together.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from simplify_inputs import feeds
from simplify_models import Model, models

TOOLS = ("onnxsim", "onnxslim", "mopt")
TOLERANCE = 1e-4
_ROUNDS = 2
"""Tools take turns (A B C A B C), so that what else the machine does hits all of them."""
_LONG = 1.0
"""Seconds from which one round is enough."""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--models", default="*", help="a glob over model names")
    arguments.add_argument("--output", type=Path, help="where to write the results")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--timeout", type=float, default=300.0, help="seconds a tool may take on a model")
    options = arguments.parse_args()
    rows: list[dict[str, Any]] = []
    print(f"{'model':24}{'before':>7} " + "".join(f"|{tool:>9} nodes  sec    error " for tool in TOOLS) + "| verdict")
    with tempfile.TemporaryDirectory(prefix="simplify-") as name:
        folder = Path(name)
        for model in models():
            if not fnmatch.fnmatch(model.name, options.models):
                continue
            row = _measure(model, folder, options.repeats, options.timeout)
            rows.append(row)
            print(_line(row), flush=True)
    if options.output and options.output.exists() and options.models != "*":
        # A part of the models was measured again: the others' rows stay.
        measured = {row["model"]: row for row in rows}
        known = json.loads(options.output.read_text(encoding="utf-8"))["rows"]
        rows = [measured.pop(row["model"], row) for row in known] + list(measured.values())
    failed = [row["model"] for row in rows if row["verdict"] != "ok" and "skipped" not in row]
    report = {"hardware": _hardware(), "versions": _versions(), "tolerance": TOLERANCE, "rows": rows, "failed": failed}
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows)} models, {len(failed)} behind: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _measure(model: Model, folder: Path, repeats: int, timeout: float) -> dict[str, Any]:
    try:
        source = model.obtain(folder)
    except Exception as error:
        return {"model": model.name, "skipped": f"{type(error).__name__}: {error}"[:200], "verdict": "skipped"}
    row: dict[str, Any] = {
        "model": model.name,
        "before": _count(onnx.load(source)),
        "sizes": len(model.shapes),
        "tools": {},
    }
    reference = _outputs(source, model)
    row["varies"] = reference["varies"]
    tools = (*TOOLS, "mopt-written-out") if model.name.startswith("light-") else TOOLS
    for again in range(_ROUNDS):
        for tool in tools:
            target = folder / f"{model.name}.{tool}.onnx"
            before = row["tools"].get(tool)
            if before is not None and not before.get("seconds", _LONG) < _LONG:
                continue
            found = _run(tool, source, target, repeats, timeout)
            if before is not None:
                before["seconds"] = min(before["seconds"], found.get("seconds", before["seconds"]))
            else:
                row["tools"][tool] = found
            if target.exists():
                if not again:
                    row["tools"][tool] |= _judge(target, model, reference)
                target.unlink()
    row["verdict"] = _verdict(row)
    return row


def _run(tool: str, source: Path, target: Path, repeats: int, timeout: float) -> dict[str, Any]:
    runner = Path(__file__).with_name("simplify_runner.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(runner), tool, str(source), str(target), str(repeats)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {timeout:g} s"}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if "Error" in line]
        return {"failed": ((errors or said or [f"exit status {done.returncode}"])[-1]).strip()[:200]}
    found = json.loads(done.stdout)
    return {
        "seconds": min(found["seconds"]),
        "import_seconds": found["import_seconds"],
        "note": found["note"],
    }


def _judge(path: Path, model: Model, reference: dict[str, Any]) -> dict[str, Any]:
    proto = onnx.load(path)
    found: dict[str, Any] = _count(proto) | {"megabytes": round(path.stat().st_size / 1e6, 3)}
    try:
        onnx.checker.check_model(str(path))
        found["valid"] = True
    except onnx.checker.ValidationError as error:
        found |= {"valid": False, "problem": str(error).splitlines()[0][:200]}
    actual = _outputs(path, model)
    found["loads"] = actual["loads"]
    if "problem" in actual:
        found["problem"] = actual["problem"]
    if not model.shapes or "values" not in actual or "values" not in reference:
        return found
    worst = 0.0
    for expected, given in zip(reference["values"], actual["values"], strict=True):
        if list(expected) != list(given):
            return found | {"error": float("inf"), "problem": "other outputs"}
        for name, array in expected.items():
            worst = max(worst, _relative(array, given[name]))
    return found | {"error": worst}


def _relative(expected: np.ndarray[Any, Any], actual: np.ndarray[Any, Any]) -> float:
    if expected.shape != actual.shape or not np.array_equal(np.isfinite(expected), np.isfinite(actual)):
        return float("inf")
    wide = expected.astype(np.float64)
    scale = max(float(np.ptp(wide)), 1e-2 * float(np.max(np.abs(wide))))
    return float(np.max(np.abs(wide - actual))) / scale if scale else float(np.max(np.abs(actual)))


def _outputs(path: Path, model: Model) -> dict[str, Any]:
    """Run a file at every size with two seeds: the outputs of the first, and whether the second gave others."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        values, varies = [], True
        for shapes in model.shapes:
            first, second = (session.run(names, feeds(session, shapes, seed)) for seed in (0, 1))
            values.append(dict(zip(names, first, strict=True)))
            varies &= all(_relative(a, b) > 1e-3 for a, b in zip(first, second, strict=True))
        return {"loads": True, "values": values, "varies": varies if model.shapes else None}
    except Exception as error:
        return {"loads": False, "problem": str(error).splitlines()[0][:200], "varies": None}


def _count(model: onnx.ModelProto) -> dict[str, int]:
    constants = {value.name for value in model.graph.initializer}
    counts = {"nodes": 0, "constants": 0}

    def walk(graph: onnx.GraphProto, known: set[str]) -> None:
        known = known | {value.name for value in graph.initializer}
        for node in graph.node:
            compressed = node.op_type == "ConstantOfShape" and node.input[0] in known
            if node.op_type == "Constant" or compressed:
                known = known | set(node.output)
                counts["constants"] += 1
            else:
                counts["nodes"] += 1
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    walk(attribute.g, known)

    walk(model.graph, constants)
    return counts


def _verdict(row: dict[str, Any]) -> str:
    own, peers = row["tools"]["mopt"], [row["tools"][tool] for tool in ("onnxsim", "onnxslim")]
    if "failed" in own:
        return f"failed: {own['failed']}"
    problems = []
    usable = [peer["nodes"] for peer in peers if peer.get("loads") and peer.get("error", 0.0) <= 1e-2]
    for other in (own, row["tools"].get("mopt-written-out", own)):
        if usable and other["nodes"] > min(usable):
            problems.append(f"{other['nodes']} nodes, a peer {min(usable)}")
    if not own["valid"] or not own["loads"]:
        problems.append(own.get("problem", "invalid"))
    if own.get("error", 0.0) > TOLERANCE:
        problems.append(f"error {own['error']:.1e}")
    if row["sizes"] and not row["varies"]:
        problems.append("the outputs do not depend on the input")
    together = sum(peer.get("seconds", 0.0) for peer in peers)
    if own["seconds"] > together:
        problems.append(f"{own['seconds']:.2f} s, the peers {together:.2f} s")
    return "; ".join(problems) or "ok"


def _line(row: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"{row['model']:24} skipped: {row['skipped']}"
    parts = [f"{row['model']:24}{row['before']['nodes']:>7} "]
    for tool in TOOLS:
        found = row["tools"][tool]
        if "nodes" not in found:
            parts.append(f"| {found.get('failed', 'no file')[:29]:30}")
            continue
        error = found.get("error")
        shown = "unloadable" if not found["loads"] else "" if error is None else f"{error:.1e}"
        parts.append(f"|{found['nodes']:>6}+{found['constants']:<4}{found.get('seconds', 0):>8.3f}{shown:>11} ")
    return "".join(parts) + f"| {row['verdict']}"


def _hardware() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        found = [
            line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")
        ]
        name = found[0] if found else name
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": 1,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    names = (
        "onnx",
        "onnx-ir",
        "onnxruntime-gpu",
        "onnxruntime",
        "onnxsim",
        "onnxslim",
        "onnxoptimizer",
        "torch",
        "numpy",
    )
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
