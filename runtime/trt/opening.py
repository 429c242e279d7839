"""Whether an engine can be loaded here, before it is: every reason against it in one clear line.

What an engine was built by, for which GPUs, and its hash stand in the file beside it; TensorRT-RTX can also be asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mopt.runtime.contract import RunError, TargetError

_WORDS: Final = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_AGAIN: Final = "compile the recipe again for this machine, or run the engine on one that it was built for"
_DIAGNOSES: Final = {
    "VERSION_MISMATCH": "it was built by another version",
    "UNSUPPORTED_CC": "it was built for GPUs of another compute capability",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it: install a newer one",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: install a newer one",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "it is damaged, or no engine of this library",
    "CUDA_ERROR": "the NVIDIA driver or the CUDA runtime is not installed correctly",
}


class EngineRunError(TargetError, RunError):
    """A loaded engine can't run what it was fed, or the device can't: exits like a target that is not available."""

    def __init__(self, message: str, *, help: str | None = None) -> None:
        super().__init__(message, missing=True, help=help)


def engine_facts(engine: Path) -> dict[str, Any]:
    """Return what the file beside an engine says of it; empty where there is none.

    Raises:
        TargetError: that file is damaged.
    """
    path = engine.with_name(f"{engine.name}.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _closed(engine, f"`{path.name}` beside it is damaged ({error})") from error
    if not isinstance(found, dict):
        raise _closed(engine, f"`{path.name}` beside it is damaged")
    return found


def check_facts(
    engine: Path, data: bytes, facts: Mapping[str, Any], library: str, version: str, capability: tuple[int, int] | None
) -> None:
    """Compare what an engine is with what is here.

    Args:
        engine, data: the file and its content.
        facts: `engine_facts` of it.
        library, version: what would load it.
        capability: of the GPU here; None where that is not known.

    Raises:
        TargetError: it is damaged, or was built by another library or version, or for other GPUs.
    """
    if not data:
        raise _closed(engine, "it is empty")
    stored = facts.get("engine", {}).get("sha256")  # of the list of its files' hashes: see `digest`
    if stored and hashlib.sha256(hashlib.sha256(data).digest()).hexdigest() != stored:
        raise _closed(engine, f"it is damaged: its bytes are not those that `{engine.name}.json` describes")
    built = {name: text for name, text in facts.get("built_by", {}).items() if name != "mopt"}
    if built and library not in built:
        other = next(iter(built))
        raise _closed(
            engine, f"it was built by {_WORDS.get(other, other)} {built[other]}, and {_WORDS[library]} is here"
        )
    settings = facts.get("settings", {})
    if built and version and not settings.get("version_compatible") and _release(built[library]) != _release(version):
        raise _closed(engine, f"it was built by {_WORDS[library]} {built[library]}, and {version} is here")
    if capability is None or not facts.get("capabilities"):
        return
    here = f"sm{capability[0]}{capability[1]}"
    if here in facts["capabilities"] or _compatible(capability, settings.get("hardware", "none")):
        return
    raise _closed(engine, f"it was built for {', '.join(facts['capabilities'])}, and this GPU is {here}")


def check_validity(engine: Path, data: bytes, trt: Any, runtime: Any) -> None:
    """Ask the library about an engine's header, where it can be asked.

    Raises:
        TargetError: it calls the engine invalid here.
    """
    if not hasattr(runtime, "get_engine_validity"):
        return
    verdict, bits = runtime.get_engine_validity(data)
    if verdict != trt.EngineValidity.INVALID:
        return
    kinds = trt.EngineInvalidityDiagnostics
    found = [
        text for name, text in _DIAGNOSES.items() if hasattr(kinds, name) and int(bits) & int(getattr(kinds, name))
    ]
    raise _closed(engine, "; ".join(found) or "the library calls it invalid here and gives no reason")


def _closed(engine: Path, reason: str) -> TargetError:
    return TargetError(f"can't load {engine.name}: {reason}", missing=True, help=_AGAIN)


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:3])


def _compatible(capability: tuple[int, int], hardware: str) -> bool:
    return hardware == "ampere_plus" and capability >= (8, 0)
