"""The few calls of the CUDA driver that running an engine takes, through ctypes: memory, a stream, events."""

from __future__ import annotations

import ctypes
from typing import Any, Final

from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.trt.opening import EngineRunError

_LIBRARY: Final = "libcuda.so.1"
_NO_DRIVER: Final = "install the NVIDIA driver of this machine's GPU (from the system's packages)"
_OUT_OF_MEMORY: Final = 2
_INITIAL: Final = {
    100: ("the NVIDIA driver finds no GPU", "check `nvidia-smi`, and that this process may use the GPU"),
    35: ("the NVIDIA driver is too old", "install a newer NVIDIA driver"),
    803: ("the NVIDIA driver does not fit the CUDA libraries here", "restart after the driver was updated"),
    804: ("the NVIDIA driver is too old for this GPU's CUDA libraries", "install a newer NVIDIA driver"),
}
"""What `cuInit` says, by its status, and what to do."""
_DRIVERS: Final = {12: "525", 13: "580"}
"""The first driver of each major version of CUDA."""


class CudaDriver:
    """The first GPU's primary context, which is also the one that TensorRT uses.

    Args:
        library: the driver's functions; the machine's own by default.
        cuda: the major version of CUDA that is needed; 0 for any.

    Raises:
        TargetError: no driver, one that is too old, or no device.
    """

    def __init__(self, library: Any = None, *, cuda: int = 0) -> None:
        try:
            self._cuda = ctypes.CDLL(_LIBRARY) if library is None else library
        except OSError as error:
            raise TargetError(f"no NVIDIA driver on this machine: {error}", missing=True, help=_NO_DRIVER) from error
        self._start(cuda)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def _start(self, cuda: int) -> None:
        status = self._cuda.cuInit(0)
        if status:
            reason, help = _INITIAL.get(status, (f"the NVIDIA driver does not start (error {status})", _NO_DRIVER))
            raise TargetError(reason, missing=True, help=help)
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        major, minor = version.value // 1000, version.value % 1000 // 10
        if major < cuda:
            first = f" {_DRIVERS[cuda]} or later" if cuda in _DRIVERS else ""
            raise TargetError(
                f"the NVIDIA driver is too old: it is for CUDA {major}.{minor}, and CUDA {cuda} is needed",
                missing=True,
                help=f"install NVIDIA driver{first}",
            )

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


def why_not(library: Any = None) -> str:
    """Say why no GPU can be used here: no driver, no device, or a driver that is too old; empty where one can."""
    try:
        driver = ctypes.CDLL(_LIBRARY) if library is None else library
    except OSError:
        return f"no NVIDIA driver: {_LIBRARY} is not here"
    status = driver.cuInit(0)
    return _INITIAL.get(status, (f"the NVIDIA driver does not start: error {status}", ""))[0] if status else ""
