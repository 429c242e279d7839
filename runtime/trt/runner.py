"""A TensorRT engine on the GPU of this machine, through `tensorrt` or `tensorrt_rtx`, which share one API."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.dtypes import numpy_dtype
from mopt.runtime.ort import Port
from mopt.runtime.trt.cuda_driver import CudaDriver

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
        TargetError: the engine is for another GPU or another version, or there is no GPU.
    """

    def __init__(self, path: Path, library: str, *, driver: CudaDriver | None = None, trt: Any = None) -> None:
        self._trt = importlib.import_module(library) if trt is None else trt
        self._cuda = CudaDriver() if driver is None else driver
        self._runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise TargetError(
                f"{library} can't load {path.name} on this GPU: it was built for others, or by another version "
                f"({path.name}.json says for which)"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise TargetError(f"the GPU has too little memory for {path.name}")
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
            RunError: an input is missing or outside the sizes the engine was built for, or the device fails.
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

    def close(self) -> None:
        """Free the device memory."""
        for address, _ in self._buffers.values():
            self._cuda.free(address)
        self._buffers.clear()
        self._context = self._engine = self._runtime = None

    def _load(self, feeds: Mapping[str, Array]) -> list[Array]:
        kept = []
        for port in self._inputs:
            if port.name not in feeds:
                raise RunError(f"no value for input `{port.name}`")
            array = np.ascontiguousarray(feeds[port.name], dtype=numpy_dtype(port.dtype))
            if not self._context.set_input_shape(port.name, array.shape):
                raise RunError(
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
