"""The whole matrix on a machine with an NVIDIA GPU; on one without, the rows that a CPU can give.

    python tests/benchmarks/gpu.py --output gpu.json [--only NAME …] [--batches 1 32] [--runs 30] [--seconds 4]

Models: ViT-base, those of the packages in `tests/models.txt`, and the recipes' networks (`gpu_models`). Ways to run
each: eager PyTorch (on a GPU in float32 and float16), onnxruntime on the CPU, through CUDA (with and without a CUDA
graph) and through TensorRT, engines built for this GPU; graphs in float32, float16 and int8 (`gpu_ways`). All ways of
a model run interleaved. What a way or a model needs and this machine lacks is a row with the reason; what nodes fell
back to another provider, and the energy of a run, stand in the rows where they can be told. Ratios on a GPU are to
float16, never float32; those to onnxruntime float32 on the CPU are in the file, too.

Needs Python, onnx, onnx-ir, onnxscript, onnxruntime, networkx, rich and lark; torch, the runtimes, nvidia-ml-py and
the packages of models are used where they are. mopt itself need not be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

if importlib.util.find_spec("mopt") is None:  # a checkout on a bare machine: as the installed package would be
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / ".ci"))
    from typing_links import link

    base = str(link(Path(__file__).resolve().parents[2]))
    sys.path.insert(0, base)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (base, os.environ.get("PYTHONPATH"))))

from gpu_models import Subject, subjects
from gpu_ways import CPU_BASE, GPU_BASES, context, inputs, ways
from mopt.ir.provenance import stamp_source
from mopt.passes.simplify.rules import Rules
from mopt.runtime.dimensions import dynamic_dimensions
from mopt.runtime.gpu import Missing, gpus, no_gpu
from mopt.runtime.inputs import binding_sets
from mopt.runtime.ort import cast_feeds
from mopt.runtime.profiler import profile
from mopt.runtime.profiler.energy import measure_energy, open_meter

PACKAGES = (
    "mopt", "torch", "onnx", "onnx-ir", "onnxruntime-gpu", "onnxruntime", "tensorrt-rtx-cu13", "tensorrt",
    "nvidia-cudnn-cu13", "numpy",
)  # fmt: skip


def said(error: Exception) -> str:
    """Say in one line what went wrong: whatever it is, the matrix goes on."""
    kind = "" if type(error).__module__.startswith("mopt") else f"{type(error).__name__}: "
    return (kind + " ".join(str(error).split()))[:400] or type(error).__name__


def measure(subject: Subject, given: argparse.Namespace) -> dict[str, Any]:
    """Run one model in every way; rows with times, or with why there are none."""
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        module = subject.graph(folder)
        stamp_source(module)
        module = Rules().run(module, context(folder)).module
        dims = tuple(d.key for d in dynamic_dimensions(module) if any(axis == 0 for _, axis in d.places))
        fixed = dict(binding_sets(module)[0])
        for dimension in dynamic_dimensions(module):
            port, axis = dimension.places[0]
            fixed[dimension.key] = subject.shapes[port][axis] if port in subject.shapes else fixed[dimension.key]
        batches = tuple(given.batches) if dims else (1,)
        sized = {batch: fixed | dict.fromkeys(dims, batch) for batch in batches}
        rows: dict[str, dict[str, Any]] = {}
        runners: dict[str, Any] = {}
        for label, open_it in ways(subject, module, sized[batches[0]], batches, dims, folder).items():
            if given.ways and label not in given.ways:
                continue
            try:
                runner = open_it()
                runner.run(cast(inputs(module, sized[batches[0]]), runner))
            except Exception as error:
                rows[label] = {"reason": said(error)}
                print(f"{subject.name} {label}: {rows[label]['reason']}", flush=True)
                continue
            runners[label] = runner
            rows[label] = {"batches": {}} | placed(runner)
            if callable(close := getattr(runner, "close", None)):
                stack.callback(close)
        for batch in batches:
            timed(subject.name, batch, runners, rows, inputs(module, sized[batch]), given)
        shapes = {name: list(array.shape) for name, array in inputs(module, sized[batches[0]]).items()}
        runners.clear()
    gc.collect()
    return {"shapes": shapes, "rows": rows}


def cast(feeds: dict[str, Any], runner: Any) -> dict[str, Any]:
    """Inputs in the types that a runner takes."""
    ports = getattr(runner, "inputs", None)
    return cast_feeds(feeds, ports) if ports else feeds


def timed(
    name: str, batch: int, runners: dict[str, Any], rows: dict[str, Any], feeds: dict[str, Any],
    given: argparse.Namespace,
) -> None:  # fmt: skip
    """Time all ways at one batch, against the CPU's baseline and the GPU's, and take their energy."""
    ready = {}
    for label, runner in runners.items():
        try:
            runner.run(cast(feeds, runner))
            ready[label] = runner
        except Exception as error:
            rows[label]["batches"][str(batch)] = {"reason": said(error)}
    arrays = {label: cast(feeds, runner) for label, runner in ready.items()}
    bases = [CPU_BASE, *[base for base in GPU_BASES if base in ready][:1]]
    for base in (base for base in bases if base in ready):
        timings = profile(
            ready, arrays, runs=given.runs, warmup=5, batch=batch, baselines=base, precision=0.02,
            seconds=given.seconds, settle=1.0,
        )  # fmt: skip
        for label, timing in timings.items():
            kept = rows[label]["batches"].setdefault(str(batch), timing.to_json() | {"ratios": {}})
            kept.pop("ratio", None)
            if timing.ratio is not None:
                kept["ratios"][base] = timing.ratio.to_json()
    meter = open_meter()
    for label, runner in ready.items():
        row = rows[label]["batches"][str(batch)]
        if not isinstance(meter, Missing) and not label.endswith("cpu"):
            run = runner.bound(arrays[label]) if hasattr(runner, "bound") else None
            row["energy"] = measure_energy(
                meter, run or (lambda r=runner, a=arrays[label]: r.timed(a)), batch=batch, seconds=1.0
            ).to_json()
        print(f"{name} {label}, batch {batch}: {row['median'] * 1e3:.3f} ms ±{spread(row):.1%}", flush=True)


def spread(row: dict[str, Any]) -> float:
    """Half the interval's width, relative to the median."""
    return (row["high"] - row["low"]) / 2 / row["median"] if row["median"] else 0.0


def placed(runner: Any) -> dict[str, Any]:
    """Say which nodes fell back to another provider, where the runner tells."""
    placement = getattr(runner, "placement", None)
    return {} if placement is None or not placement.elsewhere else {"fell_back": placement.told()}


def machine() -> dict[str, Any]:
    """What this was measured on."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    meter, missing = open_meter(), no_gpu()
    found: dict[str, Any] = {
        "processor": processor(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(),
        "system": platform.platform(), "gpus": [{"name": g.name, "capability": list(g.capability)} for g in gpus()],
        "no_gpu": missing.reason if missing else "", "versions": versions,
        "energy": meter.reason if isinstance(meter, Missing) else "read by NVML",
    }  # fmt: skip
    with contextlib.suppress(OSError):
        found["driver"] = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
    with contextlib.suppress(ImportError):
        import torch

        found["cuda of torch"], found["cudnn of torch"] = torch.version.cuda, torch.backends.cudnn.version()
    return found


def processor() -> str:
    """Return the processor's name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    """Run the matrix; what is done is kept at once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="models")
    parser.add_argument("--ways", nargs="*", default=[])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=4.0, help="of rounds, a model, batch and baseline")
    given = parser.parse_args()
    with contextlib.suppress(ImportError):
        import torch

        torch.set_num_threads(1)
    matrix = subjects()
    if unknown := [name for name in given.only if name not in matrix]:
        sys.exit(f"no model {', '.join(unknown)}; there are {', '.join(matrix)}")
    results: dict[str, Any] = {"machine": machine(), "runs": given.runs, "models": {}}
    for name in given.only or matrix:
        try:
            results["models"][name] = measure(matrix[name], given)
        except Exception as error:
            results["models"][name] = {"reason": said(error)}
            print(f"{name}: {said(error)}", flush=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
