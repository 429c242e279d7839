"""The operators of the trainable runner, a family a file. `load_all` imports every file here, which declares them."""

from __future__ import annotations

import importlib
import pkgutil


def load_all() -> None:
    """Declare every operator there is; cheap from the second call on."""
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}")
