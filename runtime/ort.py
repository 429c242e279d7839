"""onnxruntime as a runner: the reference that every other way to run a module is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import onnxruntime as ort
from mopt.ir.module import Module
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.dtypes import from_numpy, from_onnxruntime, numpy_dtype
from mopt.runtime.ort_device import DEVICES, DeviceRun, plain_run
from mopt.runtime.ort_failure import capture_failure, device_failure, first_lines
from mopt.runtime.ort_options import GpuOptions
from mopt.runtime.ort_placement import RECORD, Placement, placement
from mopt.runtime.ort_provider import PROVIDERS, Provider, chain, provider_problem, require

if TYPE_CHECKING:
    import numpy as np
    from mopt.runtime.trt.cuda_driver import CudaDriver

Level = Literal["none", "basic", "extended", "all"]

_LEVELS: Final = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
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
        options: the provider's options in onnxruntime's words, or `GpuOptions`.
        entries: of the session's configuration, in onnxruntime's words (`session.x64quantprecision`: `1`).
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
        options: Mapping[str, str] | GpuOptions | None = None,
        entries: Mapping[str, str] | None = None,
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
        self._options = options if isinstance(options, GpuOptions) else GpuOptions(extra=dict(options or {}))
        self._cuda = self._device()
        for name, value in ({RECORD: "1"} | dict(entries or {})).items():
            try:
                settings.add_session_config_entry(name, value)
            except RuntimeError as error:  # an empty name, or one or a value that is too long
                raise TargetError(f"onnxruntime refuses the session option `{name}`: {first_lines(error)}") from error
        try:
            self._session = ort.InferenceSession(
                self._source(model), settings, enable_fallback=0,
                providers=chain(provider, self._options.settings(provider, self._cuda.stream if self._cuda else 0)),
            )  # fmt: skip
        except Exception as error:  # onnxruntime raises a family of unrelated types
            self.close()
            found = device_failure(error) or (capture_failure(error) if self._options.cuda_graph else None)
            raise found or TargetError(f"onnxruntime refuses the model: {first_lines(error)}") from error
        if PROVIDERS[provider] not in self._session.get_providers():
            problem = provider_problem(provider)
            told = f": {problem.reason}" if problem else ""
            raise TargetError(
                f"onnxruntime could not start its {provider} provider on this machine{told}",
                missing=True,
                help=problem.help if problem else "`mopt doctor` says what this machine has",
            )
        self._inputs = tuple(
            Port(item.name, from_onnxruntime(item.type), tuple(item.shape)) for item in self._session.get_inputs()
        )
        self._outputs = tuple(
            Port(item.name, from_onnxruntime(item.type), tuple(item.shape)) for item in self._session.get_outputs()
        )
        self._quiet = plain_run(self._options.cuda_graph)

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

    @property
    def placement(self) -> Placement | None:
        """Which provider runs which node; None where this onnxruntime does not tell."""
        return placement(self._session, PROVIDERS[self._provider])

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once; arrays by input name in, by output name out.

        Raises:
            DeviceError: the device has no memory left, or fails.
            RunError: an input is missing, of the wrong type, or a shape that the model does not accept.
        """
        names = [port.name for port in self._outputs]
        given = self._given(feeds)
        try:
            results = self._session.run(names, given, self._quiet)
        except Exception as error:  # onnxruntime raises a family of unrelated types
            raise device_failure(error) or RunError(f"{self._misfit(given)}{first_lines(error)}") from error
        return dict(zip(names, results, strict=True))

    def bound(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], object]:
        """Return a function that runs on these arrays and does nothing else: what a profiler times.

        On a GPU the arrays are copied there once, the outputs stay there, and the function's `seconds` runs once and
        returns the device's own time (`DeviceRun`).

        Raises:
            DeviceError: the device has no room for the inputs.
            RunError: an input is missing.
        """
        session, quiet, given = self._session, self._quiet, self._given(feeds)
        names = [port.name for port in self._outputs]
        if (device := DEVICES[self._provider]) != "cpu":
            graph = self._options.cuda_graph
            return DeviceRun(session, names, given, device, cuda_graph=graph, stream=self._cuda)
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
            raise device_failure(error) or RunError(f"{self._misfit(given)}{first_lines(error)}") from error
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

    def _device(self) -> CudaDriver | None:
        """Return the stream that a GPU's session runs in; None on the CPU.

        Raises:
            TargetError: the provider can't be loaded here, or another GPU than the first is asked for.
        """
        if self._provider == "cpu":
            return None
        require(self._provider)
        if self._options.extra.get("device_id", "0") != "0":
            raise TargetError("`device_id` must be 0", help="choose a GPU with CUDA_VISIBLE_DEVICES")
        from mopt.runtime.trt.cuda_driver import CudaDriver

        return CudaDriver()

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


def _weight_bytes(module: Module) -> int:
    return sum(weight.tensor.nbytes for weight in module.weights())
