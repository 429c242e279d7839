"""A TensorRT engine on the GPU of this machine, through `tensorrt` or `tensorrt_rtx`, which share one API."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.dtypes import numpy_dtype
from mopt.runtime.gpu import gpus
from mopt.runtime.ort import Port
from mopt.runtime.trt.cuda_driver import CudaDriver
from mopt.runtime.trt.library import INSTALL, cuda_of
from mopt.runtime.trt.opening import EngineRunError, check_facts, check_validity, engine_facts
from mopt.runtime.trt.refusal import readable

Array = np.ndarray[Any, Any]

_WORDS: Final = {
    "FLOAT": "f32", "HALF": "f16", "BF16": "bf16", "INT8": "i8", "UINT8": "u8", "INT32": "i32", "INT64": "i64",
    "BOOL": "bool",
}  # fmt: skip


class TrtRunner:
    """A loaded engine. Buffers stay on the device and grow as shapes do.

    Args:
        path: the engine file.
        library: which library to load it with (the one it was built by).
        driver, trt: the CUDA driver and the library; this machine's by default.

    Raises:
        TargetError: the engine is damaged, or for another GPU or version; there is no GPU, or too old a driver.
    """

    def __init__(self, path: Path, library: str, *, driver: CudaDriver | None = None, trt: Any = None) -> None:
        facts = engine_facts(path)
        data = _content(path)
        self._values: Mapping[str, float] = facts.get("values", {})
        self._trt = _library(library) if trt is None else trt
        self._cuda = CudaDriver(cuda=cuda_of(library)) if driver is None else driver
        here = gpus()
        check_facts(path, data, facts, library, self._trt.__version__, here[0].capability if here else None)
        log = self._log = _messages(self._trt)
        self._runtime = self._trt.Runtime(log)
        check_validity(path, data, self._trt, self._runtime)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise TargetError(
                f"{library} can't load {path.name} on this GPU: {readable(log.last)}",
                missing=True,
                help=f"compile it again for this machine ({path.name}.json says what it was built for)",
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineRunError(f"the GPU has too little memory for {path.name}: {readable(log.last)}")
        self._buffers: dict[str, tuple[int, int]] = {}
        self._events = (self._cuda.event(), self._cuda.event())
        ports = [self._port(self._engine.get_tensor_name(i)) for i in range(self._engine.num_io_tensors)]
        self._inputs = tuple(port for port in ports if self._is_input(port.name))
        self._outputs = tuple(port for port in ports if not self._is_input(port.name))

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What `run` must be fed."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What `run` returns."""
        return self._outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Copy in, run, copy out.

        Raises:
            EngineRunError: an input is outside the sizes or values the engine was built for, or memory runs out.
            RunError: an input is missing, or the device fails.
        """
        kept = self._load(feeds)
        self._enqueue()
        self._cuda.wait()
        del kept  # the host arrays had to live until the copies were done
        outputs = {}
        for port in self._outputs:
            array = np.empty(tuple(self._context.get_tensor_shape(port.name)), dtype=numpy_dtype(port.dtype))
            self._cuda.to_host(array.ctypes.data, self._buffers[port.name][0], array.nbytes)
            outputs[port.name] = array
        return outputs

    def timed(self, feeds: Mapping[str, Array]) -> float:
        """Return the seconds the device takes for one run on inputs that are there already (by device events).

        Raises:
            RunError: as `run`.
        """
        kept = self._load(feeds)
        start, end = self._events
        self._cuda.record(start)
        self._enqueue()
        self._cuda.record(end)
        seconds = self._cuda.seconds(start, end)
        del kept
        return seconds

    def layer_times(self, feeds: Mapping[str, Array], runs: int) -> dict[str, list[float]]:
        """Run so many times under TensorRT's profiler; return the seconds of each layer, run by run.

        Every later run of this runner is slowed down by it, too.

        Raises:
            RunError: as `run`.
        """
        times: dict[str, list[float]] = {}
        trt: Any = self._trt

        class Times(trt.IProfiler):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times.setdefault(layer_name, []).append(ms * 1e-3)

        kept = self._load(feeds)
        self._context.profiler = profiler = Times()  # which tells after each run, and must live as long
        for _ in range(runs):
            self._enqueue()
            self._cuda.wait()
        del kept, profiler
        return times

    def refitted(self, model: bytes) -> bytes:
        """Return the engine with the weights of an ONNX model; see `mopt.runtime.trt.refit`."""
        from mopt.runtime.trt.refit import refit_weights

        return refit_weights(self._trt, self._engine, self._log, model)

    def close(self) -> None:
        """Free the device memory."""
        for address, _ in self._buffers.values():
            self._cuda.free(address)
        self._buffers.clear()
        self._context = self._engine = self._runtime = None

    def _load(self, feeds: Mapping[str, Array]) -> list[Array]:
        kept = []
        for name, array in feeds.items():
            self._check_value(name, np.asarray(array))
        for port in self._inputs:
            if port.name not in feeds:
                raise RunError(f"no value for input `{port.name}`")
            array = np.ascontiguousarray(feeds[port.name], dtype=numpy_dtype(port.dtype))
            if not self._context.set_input_shape(port.name, array.shape):
                raise EngineRunError(
                    f"input `{port.name}` has the shape {list(array.shape)}, outside of what the engine was built for "
                    f"({self._range(port.name)}); declare `trt(profile={{…}})`"
                )
            self._cuda.to_device(self._room(port.name, array.nbytes), array.ctypes.data, array.nbytes)
            kept.append(array)
        for port in self._outputs:
            shape = tuple(self._context.get_tensor_shape(port.name))
            if any(size < 0 for size in shape):
                raise RunError(f"the shape of output `{port.name}` depends on values; such engines can't be run here")
            self._room(port.name, int(np.prod(shape)) * numpy_dtype(port.dtype).itemsize)
        return kept

    def _check_value(self, name: str, array: Array) -> None:
        if name in self._values and not np.isclose(array.astype(np.float64), self._values[name]).all():
            raise EngineRunError(
                f"input `{name}` is fed {array.flat[0]}, and the engine was built for {self._values[name]:g} alone",
                help=f"build another engine with `trt(values={{{name}: …}})`",
            )

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise RunError("the engine failed on the GPU")

    def _room(self, name: str, size: int) -> int:
        address, have = self._buffers.get(name, (0, -1))
        if have < size:
            if have >= 0:
                self._cuda.free(address)
            address = self._cuda.allocate(size)
            self._buffers[name] = (address, size)
            self._context.set_tensor_address(name, address)
        return address

    def _range(self, name: str) -> str:
        try:
            low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        except (RuntimeError, TypeError, ValueError):
            return str(list(self._engine.get_tensor_shape(name)))
        return f"{list(low)} to {list(high)}"

    def _is_input(self, name: str) -> bool:
        return bool(self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT)

    def _port(self, name: str) -> Port:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _WORDS:
            raise TargetError(f"tensor `{name}` of the engine is {kind}, which numpy has no type for")
        shape = tuple(size if size >= 0 else None for size in self._engine.get_tensor_shape(name))
        return Port(name, _WORDS[kind], shape)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TargetError(f"can't read {path}: {error.strerror}", missing=True) from error


def _library(name: str) -> Any:
    """Import a library that is installed: its own libraries may still be missing."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise TargetError(f"`{name}` is installed and does not load: {error}", missing=True, help=INSTALL) from error


def _messages(trt: Any) -> Any:
    """Return a logger that keeps the library's last error."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                self.last = message

    return Log()
