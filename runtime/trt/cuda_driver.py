"""The few calls of the CUDA driver that running an engine takes, through ctypes: memory, a stream, events."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.gpu import LIBRARY, no_gpu
from mopt.runtime.trt.opening import EngineRunError

_OUT_OF_MEMORY: Final = 2


class CudaDriver:
    """The first GPU's primary context, which is also the one that TensorRT uses.

    Args:
        library: the driver's functions; the machine's own by default.
        cuda: the major version of CUDA that is needed; 0 for any.

    Raises:
        TargetError: no driver, one that is too old, or no device.
    """

    def __init__(self, library: Any = None, *, cuda: int = 0) -> None:
        if missing := no_gpu(cuda, library):
            raise TargetError(missing.reason, missing=True, help=missing.help)
        self._cuda = ctypes.CDLL(LIBRARY) if library is None else library
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def allocate(self, size: int) -> int:
        """Return the address of that many bytes on the device (at least one).

        Raises:
            EngineRunError: the device has too little memory left.
        """
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def to_device(self, address: int, host: int, size: int) -> None:
        """Copy bytes to the device."""
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_void_p(host), ctypes.c_size_t(size))

    def to_host(self, host: int, address: int, size: int) -> None:
        """Copy bytes from the device."""
        self._call("cuMemcpyDtoH_v2", ctypes.c_void_p(host), ctypes.c_uint64(address), ctypes.c_size_t(size))

    def event(self) -> int:
        """Return a new event."""
        handle = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(handle), 0)
        return int(handle.value or 0)

    def record(self, event: int) -> None:
        """Note an event in the stream."""
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(self.stream))

    def seconds(self, start: int, end: int) -> float:
        """Wait for the later event and return the device's time between the two."""
        self._call("cuEventSynchronize", ctypes.c_void_p(end))
        elapsed = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(elapsed), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return float(elapsed.value) / 1e3

    def wait(self) -> None:
        """Wait for all work of the stream."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status == _OUT_OF_MEMORY:
            raise EngineRunError(
                f"the GPU has too little memory left ({name})",
                help="feed smaller batches, give a smaller `profile` or `workspace`, or end what else uses the GPU",
            )
        if status:
            raise RunError(f"the CUDA driver's {name} failed with error {status}")
