"""What onnxruntime's errors mean where the device, not the model, is at fault."""

from __future__ import annotations

import re
from typing import Final

from mopt.runtime.contract import RunError, TargetError


class DeviceError(TargetError, RunError):
    """The device can't run a model: exits like a target that is not available."""

    def __init__(self, message: str, *, help: str | None = None) -> None:
        super().__init__(message, missing=True, help=help)


_SMALLER: Final = "feed smaller batches, set `memory` lower elsewhere, or end what else uses the GPU"
_DEVICE: Final = (
    (
        re.compile(r"out of memory|CUDA failure 2\b|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED"
                   r"|Failed to allocate memory for requested buffer|Available memory of \d+ is smaller", re.I),
        "the GPU has too little memory left", _SMALLER,
    ),
    (
        re.compile(r"CUDA failure 35\b|driver version is insufficient", re.I),
        "the NVIDIA driver is too old for this onnxruntime", "install a newer NVIDIA driver",
    ),
    (
        re.compile(r"CUDA failure 209\b|no kernel image is available", re.I),
        "this build of onnxruntime has no code for this GPU's compute capability",
        "install a release of onnxruntime-gpu that is built for this GPU",
    ),
    (
        re.compile(r"CUDA failure 100\b|no CUDA-capable device", re.I),
        "the NVIDIA driver finds no GPU", "check `nvidia-smi`, and that this process may use the GPU",
    ),
    (
        re.compile(r"CUDA failure \d+|CUDNN_STATUS_\w+|CUBLAS_STATUS_\w+", re.I),
        "the GPU failed", "check `nvidia-smi`, and the driver's messages (`dmesg`)",
    ),
)  # fmt: skip
_CAPTURE: Final = re.compile(r"graph capture|CUDA ?Graph", re.I)


def device_failure(error: BaseException) -> DeviceError | None:
    """Return what an error of onnxruntime says of the device; None where it is about something else."""
    text = str(error)
    for pattern, message, help in _DEVICE:
        if found := pattern.search(text):
            asked = re.search(r"[Rr]equested bytes of (\d+)|requested buffer of size (\d+)", text)
            size = next((int(number) for number in asked.groups() if number), 0) if asked else 0
            wanted = f" ({size / 2**20:,.0f} MiB were asked for)" if size else f" (onnxruntime: {found.group(0)})"
            return DeviceError(f"{message}{wanted}", help=help)
    return None


def capture_failure(error: BaseException) -> TargetError | None:
    """Return what an error says of CUDA graphs; None where it is about something else."""
    if not _CAPTURE.search(str(error)):
        return None
    return TargetError(
        f"the model can't run as a CUDA graph: {first_lines(error)}",
        help="a CUDA graph takes no If, Loop or Scan, and no node that runs on the CPU "
        "(`mopt profile --nodes` names those); leave `cuda_graph` out",
    )


def first_lines(error: BaseException, lines: int = 3) -> str:
    """Return the beginning of an error's text as one line."""
    text = str(error).strip() or type(error).__name__
    return " ".join(part.strip() for part in text.splitlines()[:lines])[:600]
