"""What this machine has of what recipes may need, for `mopt doctor`: read off metadata, importing no framework."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

State = Literal["ok", "missing", "limited"]


@dataclass(frozen=True)
class Check:
    """One fact.

    Attributes:
        group: `machine`, `core`, `framework` or `target`.
        name: what was looked for.
        state: `ok`; `limited` (there, but not all of it works here); `missing`.
        detail: versions, or why not.
        install: what to do about it; empty where nothing is to be done.
    """

    group: Literal["machine", "core", "framework", "target"]
    name: str
    state: State
    detail: str = ""
    install: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "group": self.group, "name": self.name, "state": self.state, "detail": self.detail,
            "install": self.install,
        }  # fmt: skip


_CORE: Final[Mapping[str, tuple[str, ...]]] = {
    "onnx": ("onnx",),
    "onnx-ir": ("onnx-ir",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "onnxsim": ("onnxsim",),
    "onnxoptimizer": ("onnxoptimizer",),
    "scikit-learn": ("scikit-learn",),
    "jiwer": ("jiwer",),
}

# What a recipe can use it for, the distributions that bring it (all of them, alternatives joined), the extra.
_FRAMEWORKS: Final[Mapping[str, tuple[tuple[tuple[str, ...], ...], str]]] = {
    "torch models and losses": ((("torch",), ("safetensors",)), "torch"),
    "Keras models and SavedModels": ((("tensorflow-cpu", "tensorflow"), ("keras",), ("tf2onnx",)), "tensorflow"),
    "folders of images": ((("pillow",),), "images"),
}


def report() -> list[Check]:
    """Look at this machine. Targets come from the registry, with their default options and each provider."""
    return [*_machine(), *_core(), *_frameworks(), *_targets()]


def _machine() -> list[Check]:
    from mopt.runtime.gpu import gpus, no_gpu

    found, missing = gpus(), no_gpu()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    system = Check(
        "machine", "system", "ok", f"Python {platform.python_version()}, {platform.platform()}, {cores} cores"
    )
    if missing is not None:
        return [system, Check("machine", "GPU", "missing", missing.reason, missing.help)]
    told = ", ".join(f"{gpu.name} (sm{gpu.capability[0]}{gpu.capability[1]})" for gpu in found)
    return [system, Check("machine", "GPU", "ok", told)]


def _core() -> list[Check]:
    checks = []
    for name, alternatives in _CORE.items():
        found = _first(alternatives)
        checks.append(Check("core", name, "ok", found) if found else _absent("core", name, f"pip install {name}"))
    return checks


def _frameworks() -> list[Check]:
    checks = []
    for name, (wanted, extra) in _FRAMEWORKS.items():
        install = f"pip install 'mopt[{extra}]'"
        versions = {alternatives: _first(alternatives) for alternatives in wanted}
        absent = [alternatives[0] for alternatives, found in versions.items() if not found]
        detail = ", ".join(found for found in versions.values() if found)
        if not absent:
            checks.append(Check("framework", name, "ok", detail))
        elif detail:
            checks.append(Check("framework", name, "limited", f"{detail}; {', '.join(absent)} is missing", install))
        else:
            checks.append(_absent("framework", name, install))
    return checks


def _targets() -> list[Check]:
    from mopt.plugin import PluginError, default_registry

    registry = default_registry()
    checks = []
    for name in registry.names("targets"):
        try:
            target = registry.get("targets", name)()
        except (PluginError, TypeError) as error:  # TypeError: an option without a default
            checks.append(Check("target", name, "missing", str(error)))
            continue
        checks.append(_target(name, target))
        if name == "ort":
            checks += [
                _target(f"ort(provider={provider})", type(target)(provider=provider))
                for provider in ("cuda", "tensorrt")
            ]
    return checks


def _target(name: str, target: Any) -> Check:
    found = target.available()
    versions = ", ".join(f"{package} {number}" for package, number in found.versions.items())
    if found.can_emit and found.can_run:
        return Check("target", name, "ok", versions)
    detail = "; ".join(text for text in (versions, found.reason) if text)
    return Check("target", name, "limited" if found.can_emit else "missing", detail, found.install)


def _absent(group: Literal["core", "framework"], name: str, install: str) -> Check:
    return Check(group, name, "missing", "not installed", install)


def _first(alternatives: tuple[str, ...]) -> str:
    for package in alternatives:
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        return f"{package} {found}"
    return ""
