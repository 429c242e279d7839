"""Where the builder's timings are kept between builds: one file for each version of TensorRT and each GPU.

A file is the SHA-256 of the cache (32 bytes) and the cache. One that does not fit its hash is told, and made anew.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

_HASH: Final = 32
CORRUPT: Final = "the timing cache was damaged and is made anew"
NONE_HERE: Final = "`timing_cache` changes nothing: TensorRT for RTX times nothing when it builds"


def cache_file(library: str, version: str, capability: str) -> Path:
    """Return the file for a library, its version and a GPU (`sm89`), in the store of `$MOPT_STORE` or the user."""
    configured = os.environ.get("MOPT_STORE")
    user = os.environ.get("XDG_CACHE_HOME")
    store = Path(configured) if configured else (Path(user) if user else Path.home() / ".cache") / "mopt"
    return store / "timing" / f"{library}-{version}-{capability}.cache"


def read_cache(path: Path) -> tuple[bytes, str]:
    """Return what is cached, and what is wrong with it; both empty where nothing is cached yet."""
    try:
        stored = path.read_bytes()
    except OSError:
        return b"", ""
    data = stored[_HASH:]
    return (data, "") if hashlib.sha256(data).digest() == stored[:_HASH] else (b"", CORRUPT)


def write_cache(path: Path, data: bytes) -> None:
    """Replace the cache, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as stream:
        stream.write(hashlib.sha256(data).digest() + data)
    Path(stream.name).replace(path)
