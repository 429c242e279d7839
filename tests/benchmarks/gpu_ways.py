"""The ways in which the GPU benchmark runs a model: what runs it, where, in which precision."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mopt.ir import Module
from mopt.passes.convert.float16 import Float16
from mopt.passes.quantize.static import Static
from mopt.plugin import default_registry
from mopt.runtime.contract import Sizes, TargetError
from mopt.runtime.gpu import gpus, no_gpu
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_options import GpuOptions
from mopt.runtime.trt.target import TrtTarget
from mopt.values import DataRef

VALUES = {"sr": 16000.0}
"""Inputs that have one value: the sampling rate, which Silero's graphs branch on."""
CPU_BASE, GPU_BASES = "onnxruntime f32, cpu", ("eager f16, gpu", "onnxruntime f16, cuda")
"""What ratios are to: on the CPU, and on a GPU (the first that ran)."""


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Any]:
    """A progress bar that shows nothing."""
    yield SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)


class Seeded:
    """A split of seeded inputs, each a batch of its own: not every input has its batch axis in front (`state`)."""

    name, pad = "seeded", False

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds = feeds

    def __len__(self) -> int:
        return len(self._feeds)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._feeds)

    def batches(self, size: int) -> Iterator[Any]:
        """Each sample as it is."""
        del size
        return iter(self._feeds)


def context(folder: Path, feeds: list[dict[str, Any]] | None = None) -> Any:
    """What a pass may ask for."""
    split = Seeded(feeds or [])
    return SimpleNamespace(seed=0, bindings={}, scratch=folder, progress=bar, promises=(), split=lambda _: split)


def inputs(module: Module, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Any]:
    """Seeded inputs, with the one value of those that have one."""
    found = seeded_inputs(module, dict(sizes), seed=seed)
    return {name: np.full_like(array, VALUES[name]) if name in VALUES else array for name, array in found.items()}


class Eager:
    """A PyTorch module on a device, timed by the device's own events where it has any."""

    def __init__(self, module: Any, names: tuple[str, ...], *, gpu: bool, half: bool) -> None:
        import torch

        if gpu and not torch.cuda.is_available():
            raise TargetError(f"PyTorch {torch.__version__} can't use a GPU here", missing=True)
        self._torch, self._names, self._gpu = torch, names, gpu
        self._type = torch.float16 if half else torch.float32
        self._module = module.to(device="cuda" if gpu else "cpu", dtype=self._type)

    def run(self, feeds: Mapping[str, Any]) -> None:
        """Run once."""
        self.bound(feeds)()

    def bound(self, feeds: Mapping[str, Any]) -> Any:
        """Return what runs on tensors that are there."""
        from mopt.passes.convert.torch_eager import EagerCall

        tensors = [self._torch.from_numpy(feeds[name]) for name in self._names]
        return EagerCall(self._module, [self._put(tensor) for tensor in tensors], {}, gpu=self._gpu)

    def _put(self, tensor: Any) -> Any:
        kind = self._type if tensor.is_floating_point() else tensor.dtype
        return tensor.to("cuda" if self._gpu else "cpu", kind)


def ways(subject: Any, module: Module, sizes: Mapping[str, int], batches: tuple[int, ...], dims: tuple[str, ...],
         folder: Path) -> dict[str, Callable[[], Any]]:  # fmt: skip
    """Return every way to run a model, each as what opens it; what this machine lacks raises when it is opened.

    Args:
        subject: the model.
        module: its simplified graph.
        sizes: of its dynamic dimensions, at the first batch.
        batches: that it will be run at; `dims` are the dimensions that are the batch.
        folder: for files on the way.
    """
    samples = [inputs(module, sizes, seed) for seed in range(8)]

    @functools.cache
    def int8(placement: str) -> Module:
        static = Static(data=DataRef("d", "calib"), placement=placement)
        return static.run(module.clone(), context(folder, samples)).module

    @functools.cache
    def half() -> Module:
        return Float16().run(module.clone(), context(folder)).module

    def engine(ready: Module, precision: str) -> Any:
        if missing := no_gpu():
            raise TargetError(missing.reason, missing=True)
        major, minor = gpus()[0].capability
        span = (min(batches), min(batches), max(batches))
        profile = {key: span if key in dims else (size,) for key, size in sizes.items()}
        values = {name: value for name, value in VALUES.items() if any(port.name == name for port in module.inputs)}
        target = TrtTarget(precision=precision, capabilities=(f"sm{major}{minor}",), profile=profile, values=values)
        for step, options in target.prepare():
            ready = default_registry().get("passes", step)(**options).run(ready, context(folder)).module
        place = Path(tempfile.mkdtemp(dir=folder))
        return target.open(target.emit(ready, place, Sizes()))

    def eager(*, gpu: bool, half: bool) -> Any:
        return Eager(*subject.eager(), gpu=gpu, half=half)

    graph = GpuOptions(cuda_graph=True)
    found: dict[str, Callable[[], Any]] = {}
    if subject.eager is not None:
        found["eager f32, cpu"] = lambda: eager(gpu=False, half=False)
        found["eager f32, gpu"] = lambda: eager(gpu=True, half=False)
        found["eager f16, gpu"] = lambda: eager(gpu=True, half=True)
    return found | {
        CPU_BASE: lambda: OrtRunner(module),
        "onnxruntime int8, cpu": lambda: OrtRunner(int8("onnxruntime")),
        "onnxruntime f32, cuda": lambda: OrtRunner(module, provider="cuda"),
        "onnxruntime f16, cuda": lambda: OrtRunner(half(), provider="cuda"),
        "onnxruntime f16, cuda graph": lambda: OrtRunner(half(), provider="cuda", options=graph),
        "onnxruntime int8, cuda": lambda: OrtRunner(int8("tensorrt"), provider="cuda"),
        "onnxruntime f16, tensorrt": lambda: OrtRunner(half(), provider="tensorrt"),
        "onnxruntime int8, tensorrt": lambda: OrtRunner(int8("tensorrt"), provider="tensorrt"),
        "engine f32": lambda: engine(module.clone(), "fp32"),
        "engine f16": lambda: engine(module.clone(), "fp16"),
        "engine int8": lambda: engine(int8("tensorrt").clone(), "fp16"),
    }
