"""Whether an execution provider of onnxruntime can be used here: listing one takes no library, loading it does."""

from __future__ import annotations

import contextlib
import ctypes
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import onnxruntime as ort
from mopt.runtime.contract import TargetError
from mopt.runtime.gpu import Missing, no_gpu

Provider = Literal["cpu", "cuda", "tensorrt"]

PROVIDERS: Final[dict[str, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""What onnxruntime calls each."""

_CUDA: Final = tuple(
    f"*/lib/lib{name}"
    for name in (
        "cudart.so.{cuda}", "nvrtc.so.{cuda}", "nvJitLink.so.{cuda}", "cublasLt.so.{cuda}", "cublas.so.{cuda}",
        "cufft.so.*", "curand.so.*", "cudnn.so.9",
    )
)  # fmt: skip
"""Libraries in the folders of NVIDIA's packages, in the order in which they need one another."""
_NVINFER: Final = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
_BROUGHT: Final = {
    "libcudnn": "'onnxruntime-gpu[cudnn]'",
    "libnvinfer": "'tensorrt<11'",
    "libnvonnxparser": "'tensorrt<11'",
    "libcu": "'onnxruntime-gpu[cuda,cudnn]'",
    "libnvrtc": "'onnxruntime-gpu[cuda,cudnn]'",
}
"""Which requirement of pip brings a library, by how its name begins."""


def provider_problem(provider: Provider) -> Missing | None:
    """Say why a provider can't be loaded on this machine, and what to install; None where it can."""
    if PROVIDERS[provider] not in ort.get_available_providers():
        return Missing(
            f"this build of onnxruntime ({ort.__version__}) has no {provider} provider",
            "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    if provider == "cpu":
        return None
    if found := no_gpu(_cuda_major()):
        return found
    preload()
    for name in ("shared", *(["cuda"] if provider == "tensorrt" else []), provider):
        if found := _unloadable(provider, name):
            return found
    return None


def require(provider: Provider) -> None:
    """Check that a provider can be loaded.

    Raises:
        TargetError: it can't; what was found, and what to install.
    """
    if found := provider_problem(provider):
        raise TargetError(found.reason, missing=True, help=found.help)


def chain(provider: Provider, options: dict[str, dict[str, str]]) -> list[tuple[str, dict[str, str]]]:
    """Return the providers to ask onnxruntime for, in its words, with their options.

    What TensorRT does not take goes to CUDA, and what that has no kernel for to the CPU: `placement` tells.
    """
    order = {"cpu": ["cpu"], "cuda": ["cuda", "cpu"], "tensorrt": ["tensorrt", "cuda", "cpu"]}[provider]
    return [(PROVIDERS[name], options.get(name, {})) for name in order]


def preload() -> None:
    """Load CUDA's, cuDNN's and TensorRT's libraries from the packages that pip installed, wherever they are.

    onnxruntime looks beside itself; PyTorch may have brought them to another folder of packages.
    """
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it did not find
            ort.preload_dlls()
    for package, names in (("nvidia", _CUDA), ("tensorrt_libs", _NVINFER)):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for name in names:
                for library in sorted(Path(folder).glob(name.format(cuda=_cuda_major()))):
                    with contextlib.suppress(OSError):
                        _load(str(library))


def _unloadable(provider: str, name: str) -> Missing | None:
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    try:
        _load(str(library))
    except OSError as error:
        absent, colon, _ = str(error).partition(": cannot open shared object file")
        if not colon:
            return Missing(f"the {provider} provider of onnxruntime does not load: {error}", _install(""))
        return Missing(
            f"onnxruntime lists its {provider} provider and can't load it: {Path(absent).name} is not here",
            _install(absent),
        )
    return None


def _load(library: str) -> Any:
    return ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)


def _install(absent: str) -> str:
    name = Path(absent).name
    for begin, requirement in _BROUGHT.items():
        if name.startswith(begin):
            return f"pip install {requirement} (it brings {name})"
    return "pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]'"


def _cuda_major() -> int:
    """Return which CUDA this build of onnxruntime is for; 0 where it does not say."""
    text = str(getattr(ort, "cuda_version", "") or "")
    return int(text.partition(".")[0]) if text.partition(".")[0].isdigit() else 0
