"""A PyTorch model run by PyTorch itself, as a recipe's author would: what speed-ups over the framework refer to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from mopt.passes.convert.torch_convert import Reference
from mopt.passes.convert.torch_load import keyword_arguments, load_torch
from mopt.runtime.contract import TargetError
from mopt.runtime.gpu import Missing, no_gpu
from mopt.runtime.ort_failure import device_failure

if TYPE_CHECKING:
    import numpy as np
    from mopt.passes.convert.torch_source import TorchSource


class TorchEager:
    """A model in evaluation mode without gradients, on the CPU in float32 or on a GPU in float16.

    Args:
        source: what a recipe names.
        threads: of PyTorch, for the whole process.
        gpu: run it on the GPU.

    Raises:
        SourceError: it can't be loaded.
        TargetError: PyTorch can't use a GPU here.
    """

    def __init__(self, source: TorchSource, threads: int = 1, *, gpu: bool = False) -> None:
        torch.set_num_threads(threads)
        if gpu:
            _require_gpu()
        self._loaded, _ = load_torch(source, lambda _: None)
        self._call = Reference(self._loaded, source)
        self._gpu = gpu
        if gpu:
            self._loaded.module.to(device="cuda", dtype=torch.float16)

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once, on the CPU.

        Raises:
            SourceError: the model raises.
            TargetError: it lies on a GPU, where it is only timed (`bound`).
        """
        if self._gpu:
            raise TargetError("a model in float16 on a GPU is timed, and judged by nothing")
        return dict(self._call(feeds))

    def bound(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> EagerCall:
        """Return a function that calls the model on tensors that are there already.

        Raises:
            DeviceError: the GPU has no room for them.
        """
        tensors = {name: self._tensor(array) for name, array in feeds.items()}
        arguments, keywords = keyword_arguments(self._loaded, tensors)
        return EagerCall(self._loaded.module, arguments, keywords, gpu=self._gpu)

    def _tensor(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array.copy())
        if not self._gpu:
            return tensor
        with _device_errors():
            return tensor.to("cuda", torch.float16 if tensor.is_floating_point() else tensor.dtype)


class EagerCall:
    """A model with its arguments, timed on a GPU by CUDA events."""

    def __init__(self, module: Any, arguments: Any, keywords: Any, *, gpu: bool) -> None:
        self._module, self._arguments, self._keywords = module, arguments, keywords
        self.timed_by_device = gpu
        """Whether `seconds` can be used."""

    def __call__(self) -> object:
        """Run once, and return when it is done."""
        with _device_errors(), torch.inference_mode():
            found = self._module(*self._arguments, **self._keywords)
            if self.timed_by_device:
                torch.cuda.synchronize()
        return found

    def seconds(self) -> float:
        """Run once, and return the device's own time for it."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with _device_errors(), torch.inference_mode():
            start.record()
            self._module(*self._arguments, **self._keywords)
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3


def _require_gpu() -> None:
    if torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        raise TargetError(
            f"PyTorch {torch.__version__} is built without CUDA", missing=True, help="install PyTorch's build for CUDA"
        )
    found = no_gpu(int(torch.version.cuda.partition(".")[0])) or Missing("PyTorch finds no GPU", "check `nvidia-smi`")
    raise TargetError(found.reason, missing=True, help=found.help)


@contextlib.contextmanager
def _device_errors() -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise device_failure(error) or error from error
