"""Memory of the GPU while a model loads and runs: the least that was free, asked often.

The driver tells what is free on the whole device, so other processes count, too; nothing else is asked of it, and no
package is needed. onnxruntime's arena takes memory in steps and keeps it: its peak is what a machine must have.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from mopt.runtime.contract import TargetError

_EVERY: Final = 0.001


def free_bytes(driver: Any = None) -> Callable[[], int]:
    """Return a function that tells how much of the first GPU's memory is free.

    Args:
        driver: the driver's functions; the machine's own by default.

    Raises:
        TargetError: there is no GPU to ask.
    """
    from mopt.runtime.gpu import no_gpu

    if missing := no_gpu(library=driver):
        raise TargetError(missing.reason, missing=True, help=missing.help)
    library = ctypes.CDLL("libcuda.so.1") if driver is None else driver
    device, context = ctypes.c_int(), ctypes.c_void_p()
    library.cuDeviceGet(ctypes.byref(device), 0)
    library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)

    def ask() -> int:
        library.cuCtxSetCurrent(context)  # of the thread that asks
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        if status := library.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)):
            raise TargetError(f"the NVIDIA driver does not tell its free memory (error {status})", missing=True)
        return int(free.value)

    return ask


class DeviceMemory:
    """Watches free memory from a thread of its own, from entering to leaving.

    Args:
        free: tells the free bytes (`free_bytes`).
        every: seconds between two looks.
    """

    def __init__(self, free: Callable[[], int], every: float = _EVERY) -> None:
        self._free, self._every = free, every
        self._before = self._least = free()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def held(self) -> int:
        """Bytes taken since the beginning, now."""
        self._look()
        return max(self._before - self._free(), 0)

    @property
    def peak(self) -> int:
        """The most bytes that were taken at once."""
        self._look()
        return max(self._before - self._least, 0)

    def __enter__(self) -> DeviceMemory:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self._look()

    def _look(self) -> None:
        self._least = min(self._least, self._free())
