"""Look into a Keras file before Keras does: nothing in it may be code.

Keras's own `safe_mode` was bypassed more than once (CVE-2025-1550, CVE-2025-8747 for `.keras`; CVE-2025-9905: it did
not hold for `.h5` at all), and which versions are fixed depends on what is installed. The configuration is JSON, so
the check needs no Keras.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from mopt.runtime.contract import SourceError


def refuse_code(path: Path) -> None:
    """Check a `.keras`, `.h5` or `.hdf5` file.

    Raises:
        SourceError: it carries bytecode of a lambda, or names objects outside Keras.
    """
    for config in _dictionaries(_configuration(path)):
        kind = config.get("class_name")
        function = config["config"].get("function") if isinstance(config.get("config"), dict) else None
        if kind == "__lambda__" or (kind == "Lambda" and isinstance(function, list)):
            raise SourceError(
                f"{path.name} holds a Lambda layer with Python bytecode in it, which loading would run; mopt does "
                'not. Build the model by a factory ("file.py:factory") and load its weights alone'
            )
        module = config.get("module")
        if not isinstance(module, str) or kind is None:
            continue
        root = module.partition(".")[0]
        # plain containers are the builtins' own; a function of theirs (`eval`) is none of a model's
        if root not in ("keras", "builtins", "") or (root == "builtins" and kind == "function"):
            raise SourceError(
                f"{path.name} names `{module}.{_named(config)}`, which is no part of Keras and would be imported; "
                'build the model by a factory ("file.py:factory") and load its weights alone'
            )


def _configuration(path: Path) -> Any:
    """Return the model's configuration; None where there is none to read (the loader says why)."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        import h5py

        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
        return json.loads(text) if text is not None else None
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    waiting = [value]
    while waiting:
        current = waiting.pop()
        if isinstance(current, dict):
            found.append(current)
            waiting.extend(current.values())
        elif isinstance(current, list):
            waiting.extend(current)
    return found


def _named(config: dict[str, Any]) -> str:
    inner = config.get("config")
    return inner if isinstance(inner, str) else str(config.get("class_name"))
