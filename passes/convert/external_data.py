"""Which files an ONNX file keeps its weights in, found without parsing it: a warm compile asks on every run."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Final

_KEY: Final = b"\x0a\x08location\x12"
"""How a `StringStringEntryProto` with the key `location` begins: field 1, eight bytes, the key, field 2."""


def external_files(path: Path) -> tuple[Path, ...]:
    """Return the existing files beside an ONNX file that it names as places of tensors, sorted.

    A text that only looks like such an entry names no existing file, or adds one too many to a fingerprint:
    neither does harm.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            names = _names(content)
    except (OSError, ValueError):  # not there, or empty: whoever loads it says so
        return ()
    found = []
    for name in names:
        try:
            file = path.parent / name
            if file.is_file():
                found.append(file)
        except (OSError, ValueError):
            continue
    return tuple(sorted(found))


def _names(content: mmap.mmap) -> set[str]:
    names = set()
    position = content.find(_KEY)
    while position >= 0:
        start = position + len(_KEY)
        length = shift = 0
        while start < len(content) and shift <= 28:
            byte = content[start]
            start += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if 0 < length < 4096:
            names.add(content[start : start + length].decode("utf-8", "replace"))
        position = content.find(_KEY, position + len(_KEY))
    return names
