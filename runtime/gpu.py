"""The NVIDIA GPUs of this machine, asked from the driver itself (no framework, no subprocess)."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, Final

LIBRARY: Final = "libcuda.so.1"
_INSTALL: Final = "install the NVIDIA driver of this machine's GPU (from the system's packages)"
_NEWER: Final = "install a newer NVIDIA driver"
_STATUS: Final = {
    35: ("the NVIDIA driver is too old", _NEWER),
    100: ("the NVIDIA driver finds no GPU", "check `nvidia-smi`, and that this process may use the GPU"),
    803: ("the NVIDIA driver does not fit the CUDA libraries here", "restart after the driver was updated"),
    804: ("the NVIDIA driver is too old for this GPU's CUDA libraries", _NEWER),
}
"""What `cuInit` says, by its status, and what to do."""
_DRIVERS: Final = {12: "525", 13: "580"}
"""The first driver of each major version of CUDA (CUDA Toolkit release notes, table 3)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU: its name, compute capability (`(8, 9)` is sm89), and identity (`GPU-…`, as NVML calls it)."""

    name: str
    capability: tuple[int, int]
    uuid: str = ""


@dataclass(frozen=True)
class Missing:
    """Why there is nothing to run on: what was found, and what to do about it."""

    reason: str
    help: str


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the driver offers to this process; empty without a driver or a device."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for index in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
        if driver.cuDeviceGet(ctypes.byref(device), index) != 0:
            continue
        driver.cuDeviceGetName(name, len(name), device)
        major, minor = ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # COMPUTE_CAPABILITY_MAJOR
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # COMPUTE_CAPABILITY_MINOR
        found.append(Gpu(name.value.decode(errors="replace"), (major.value, minor.value), _uuid(driver, device)))
    return tuple(found)


def no_gpu(cuda: int = 0, library: Any = None) -> Missing | None:
    """Say why no GPU can be used here: no driver, a driver that is too old, no device; None where one can.

    Args:
        cuda: the major version of CUDA that is needed; 0 for any.
        library: the driver's functions; the machine's own by default.
    """
    try:
        driver = ctypes.CDLL(LIBRARY) if library is None else library
    except OSError:
        return Missing(f"no NVIDIA driver on this machine: {LIBRARY} is not here", _INSTALL)
    if status := driver.cuInit(0):
        return Missing(*_STATUS.get(status, (f"the NVIDIA driver does not start (error {status})", _INSTALL)))
    major, minor = driver_cuda(driver)
    if major < cuda:
        first = f" {_DRIVERS[cuda]} or later" if cuda in _DRIVERS else ""
        return Missing(
            f"the NVIDIA driver is too old: it is for CUDA {major}.{minor}, and CUDA {cuda} is needed",
            f"install NVIDIA driver{first}",
        )
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return Missing(*_STATUS[100])
    return None


def driver_cuda(driver: Any) -> tuple[int, int]:
    """Return the version of CUDA that the driver is for, as (major, minor)."""
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def _uuid(driver: Any, device: ctypes.c_int) -> str:
    raw = (ctypes.c_ubyte * 16)()
    if driver.cuDeviceGetUuid(ctypes.byref(raw), device) != 0:
        return ""
    text = bytes(raw).hex()
    return f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
