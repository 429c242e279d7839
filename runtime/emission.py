"""What every target's `emit` ends with: the files it wrote, their size, and their size once compressed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mopt.runtime.contract import Artifact

_CHUNK: Final = 1 << 20


def artifact(path: Path, files: Sequence[Path], notes: Sequence[str] = (), *, weighed: Sequence[Path] = ()) -> Artifact:
    """Describe written files.

    Args:
        path: the main file.
        files: all files that must travel together, the main one included.
        weighed: those that count as the model's size; default all of `files`.
    """
    counted = tuple(weighed) or tuple(files)
    return Artifact(
        path=path,
        files=tuple(files),
        bytes=sum(file.stat().st_size for file in counted),
        compressed=sum(compressed_size(file) for file in counted),
        notes=tuple(notes),
    )


def compressed_size(path: Path) -> int:
    """Return a file's size in bytes after zlib at level 6, without holding it in memory."""
    compressor = zlib.compressobj(6)
    total = 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total += len(compressor.compress(chunk))
    return total + len(compressor.flush())
