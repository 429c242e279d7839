"""Which TensorRT this machine can build with: `tensorrt` and a GPU, or `tensorrt_rtx`, which needs no GPU to build."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Literal

from mopt.runtime.gpu import gpus

Library = Literal["tensorrt", "tensorrt_rtx"]

_DISTRIBUTIONS: Final[dict[str, tuple[str, ...]]] = {
    "tensorrt": ("tensorrt", "tensorrt_cu13", "tensorrt_cu12"),
    "tensorrt_rtx": ("tensorrt_rtx_cu13", "tensorrt_rtx_cu12", "tensorrt_rtx"),
}
_LIBRARIES: Final[dict[str, tuple[str, ...]]] = {
    "tensorrt": ("tensorrt_libs", "tensorrt_cu13_libs", "tensorrt_cu12_libs"),
    "tensorrt_rtx": ("tensorrt_rtx_libs",),
}

INSTALL: Final = "pip install 'mopt[tensorrt-rtx]' (builds without a GPU), or TensorRT and `pip install tensorrt`"


@dataclass(frozen=True)
class Found:
    """A TensorRT to build with, and whether engines run here."""

    library: Library
    version: str
    can_run: bool


def find(wanted: Literal["auto", "tensorrt", "tensorrt_rtx"] = "auto") -> Found | None:
    """Return the library to use, looking at what is installed and at the GPUs, importing neither library."""
    gpu = bool(gpus())
    if wanted in ("auto", "tensorrt") and gpu and _installed("tensorrt"):
        return Found("tensorrt", _version("tensorrt"), True)
    if wanted in ("auto", "tensorrt_rtx") and _installed("tensorrt_rtx"):
        return Found("tensorrt_rtx", _version("tensorrt_rtx"), gpu)
    return None


def missing_reason(wanted: Literal["auto", "tensorrt", "tensorrt_rtx"] = "auto") -> str:
    """Say why `find` found nothing."""
    if wanted == "tensorrt_rtx":
        return "TensorRT for RTX is not installed"
    if _installed("tensorrt") and not gpus():
        return "`tensorrt` builds engines only on a machine with an NVIDIA GPU"
    return "TensorRT is not installed" if wanted == "auto" else "`tensorrt` (with its libraries) is not installed"


def _installed(library: Library) -> bool:
    """Say whether the bindings and the libraries behind them are there (the wheel of one comes without the other)."""
    if importlib.util.find_spec(library) is None:
        return False
    if any(importlib.util.find_spec(package) is not None for package in _LIBRARIES[library]):
        return True
    import ctypes.util

    return ctypes.util.find_library("nvinfer" if library == "tensorrt" else "tensorrt_rtx") is not None


def _version(library: Library) -> str:
    for package in _DISTRIBUTIONS[library]:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return ""


def cuda_of(library: str) -> int:
    """Return the major version of CUDA that an installed library is built for; 0 where its packages do not say."""
    for package in _DISTRIBUTIONS[library]:
        suffix = package.rpartition("_cu")[2]
        if suffix.isdigit():
            try:
                version(package)
            except PackageNotFoundError:
                continue
            return int(suffix)
    return 0
