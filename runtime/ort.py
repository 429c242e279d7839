"""onnxruntime as a runner: the reference that every other way to run a module is compared with."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import onnxruntime as ort
from mopt.ir.module import Module
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.dtypes import from_numpy, from_onnxruntime, numpy_dtype
from mopt.runtime.gpu import gpus
from mopt.runtime.ort_device import DEVICES, device_resident

if TYPE_CHECKING:
    import numpy as np

Provider = Literal["cpu", "cuda", "tensorrt"]
Level = Literal["none", "basic", "extended", "all"]

_PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_LEVELS: Final = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# What a provider's library links against and pip can bring; told to the user where it does not load.
_INSTALL: Final = {
    "cuda": "an NVIDIA driver, and `pip install 'onnxruntime-gpu[cuda,cudnn]'`",
    "tensorrt": "an NVIDIA driver, `pip install 'onnxruntime-gpu[cuda,cudnn]'` and TensorRT 10's libraries",
}
_IN_MEMORY_LIMIT: Final = 64 << 20
"""Modules with more bytes of weights go to onnxruntime through a file, which it maps instead of copying."""


@dataclass(frozen=True)
class Port:
    """One input or output of a loaded model: its name, element type (`f32`) and shape (a name or None is dynamic)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class OrtRunner:
    """A model loaded into onnxruntime.

    Args:
        model: a module, an ONNX file, or the bytes of one.
        provider: the execution provider. One that can't be loaded is an error, never a silent fall-back to the CPU.
        threads: threads inside one operator; operators run one after the other.
        optimize: onnxruntime's own graph optimisations: True for all, False for none, or one of its levels.
        options: provider options, in onnxruntime's words.
        patterns: plan one block of memory for each shape of inputs, and keep the plan. Without, runs of many different
            shapes take no more memory than one of the largest.
        traced: a folder for onnxruntime's profile of every run (`end_trace`), and for the graph that it really runs,
            `optimized.onnx`.

    Raises:
        TargetError: onnxruntime refuses the model (it says why), or the provider is missing here (`missing`).
    """

    def __init__(
        self,
        model: Module | Path | str | bytes,
        *,
        provider: Provider = "cpu",
        threads: int = 1,
        optimize: bool | Level = True,
        options: Mapping[str, str] | None = None,
        patterns: bool = True,
        traced: Path | None = None,
    ) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._provider = provider
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.enable_mem_pattern = patterns
        settings.log_severity_level = 4  # its errors come as exceptions; on stderr they would only repeat them
        level: Level = ("all" if optimize else "none") if isinstance(optimize, bool) else optimize
        settings.graph_optimization_level = _LEVELS[level]
        if traced is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = str(traced / "profile")
            settings.optimized_model_filepath = str(traced / "optimized.onnx")
        if provider != "cpu":
            _require(provider)
        chosen = [(_PROVIDERS[provider], dict(options or {}))]
        if provider != "cpu":
            chosen.append((_PROVIDERS["cpu"], {}))  # for operators that the provider has no kernel for
        try:
            self._session = ort.InferenceSession(self._source(model), settings, providers=chosen)
        except Exception as error:  # onnxruntime raises a family of unrelated types
            self.close()
            raise TargetError(f"onnxruntime refuses the model: {_first_lines(error)}") from error
        if _PROVIDERS[provider] not in self._session.get_providers():
            raise TargetError(
                f"onnxruntime could not start its {provider} provider on this machine",
                missing=True,
                help=provider_help(provider),
            )
        self._inputs = tuple(
            Port(item.name, from_onnxruntime(item.type), tuple(item.shape)) for item in self._session.get_inputs()
        )
        self._outputs = tuple(
            Port(item.name, from_onnxruntime(item.type), tuple(item.shape)) for item in self._session.get_outputs()
        )
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = 4

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What `run` must be fed."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What `run` returns."""
        return self._outputs

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that onnxruntime really uses, in its own words."""
        return tuple(self._session.get_providers())

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once; arrays by input name in, by output name out.

        Raises:
            RunError: an input is missing, of the wrong type, or a shape that the model does not accept.
        """
        names = [port.name for port in self._outputs]
        given = self._given(feeds)
        try:
            results = self._session.run(names, given, self._quiet)
        except Exception as error:  # onnxruntime raises a family of unrelated types
            raise RunError(f"{self._misfit(given)}{_first_lines(error)}") from error
        return dict(zip(names, results, strict=True))

    def bound(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], object]:
        """Return a function that runs on these arrays and does nothing else: what a profiler times.

        On a GPU the arrays are copied there once, and the outputs stay there.

        Raises:
            RunError: an input is missing.
        """
        session, names, given, quiet = (
            self._session,
            [port.name for port in self._outputs],
            self._given(feeds),
            self._quiet,
        )
        if (device := DEVICES[self._provider]) != "cpu":
            return device_resident(session, names, given, device, quiet)
        return lambda: session.run(names, given, quiet)

    def end_trace(self) -> str:
        """Stop profiling; return the file that onnxruntime wrote (a `traced` runner's only)."""
        return str(self._session.end_profiling())

    def run_one_by_one(
        self, feeds: Mapping[str, np.ndarray[Any, Any]], names: Sequence[str]
    ) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
        """Run once, and yield the named outputs, which are tensors of numbers; one at a time is copied.

        Raises:
            RunError: see `run`.
        """
        given = self._given(feeds)
        try:
            if any(array.dtype.kind in "OSU" for array in given.values()):  # no OrtValue is made of strings
                yield from zip(names, self._session.run(list(names), given, self._quiet), strict=True)
                return
            values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
            results = self._session.run_with_ort_values(list(names), values, self._quiet)
        except Exception as error:  # onnxruntime raises a family of unrelated types
            raise RunError(f"{self._misfit(given)}{_first_lines(error)}") from error
        del values
        results.reverse()
        for name in names:
            yield name, results.pop().numpy()

    def close(self) -> None:
        """Free the session and the temporary file behind it."""
        self._session = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> OrtRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _given(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        missing = [port.name for port in self._inputs if port.name not in feeds]
        if missing:
            raise RunError(f"no value for input {', '.join(f'`{name}`' for name in missing)}")
        return {port.name: feeds[port.name] for port in self._inputs}

    def _misfit(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> str:
        for port in self._inputs:
            given = feeds[port.name]
            if from_numpy(given.dtype) != port.dtype:
                return f"input `{port.name}` is {port.dtype}, was given {from_numpy(given.dtype)}: "
        return ""

    def _source(self, model: Module | Path | str | bytes) -> str | bytes:
        if isinstance(model, bytes):
            return model
        if not isinstance(model, Module):
            return str(model)
        from mopt.ir import save, to_proto

        if _weight_bytes(model) <= _IN_MEMORY_LIMIT:
            return bytes(to_proto(model).SerializeToString())
        self._folder = tempfile.TemporaryDirectory(prefix="mopt-")
        path = Path(self._folder.name) / "model.onnx"
        save(model, path, external_data=True)
        return str(path)


def cast_feeds(feeds: Mapping[str, np.ndarray[Any, Any]], inputs: Sequence[Port]) -> dict[str, np.ndarray[Any, Any]]:
    """Convert arrays to the element types that a runner's inputs have (float32 data into a float16 interface)."""
    return {port.name: feeds[port.name].astype(numpy_dtype(port.dtype), copy=False) for port in inputs}


def provider_problem(provider: Provider) -> str:
    """Say why a provider can't be loaded on this machine; empty where it can, as far as its library goes."""
    if _PROVIDERS[provider] not in ort.get_available_providers():
        return f"this build of onnxruntime has no {provider} provider"
    if provider == "cpu":
        return ""
    if not gpus():
        return "no NVIDIA GPU (or no driver) on this machine"
    for name in ("providers_shared", f"providers_{provider}"):
        library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_{name}.so"
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return f"the {provider} provider of onnxruntime does not load: {error}"
    return ""


def provider_help(provider: Provider) -> str:
    """Say what a provider needs that this machine may lack."""
    return f"it needs {_INSTALL[provider]}" if provider in _INSTALL else ""


def _require(provider: Provider) -> None:
    if hasattr(ort, "preload_dlls"):
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it did not find
            ort.preload_dlls()
    problem = provider_problem(provider)
    if problem:
        raise TargetError(problem, missing=True, help=provider_help(provider))


def _weight_bytes(module: Module) -> int:
    return sum(weight.tensor.nbytes for weight in module.weights())


def _first_lines(error: BaseException, lines: int = 3) -> str:
    text = str(error).strip() or type(error).__name__
    return " ".join(part.strip() for part in text.splitlines()[:lines])[:600]
