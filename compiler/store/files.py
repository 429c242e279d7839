"""Files that are either whole or absent, and the digests that name them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class StoreError(Exception):
    """The store or the output folder can't be written or read: a full disk, missing rights, a damaged entry."""


def digest_of(data: Any) -> str:
    """Return the hex digest of JSON data; equal for equal data, whatever the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"no space left on the disk of {path}; what was finished is kept: free some space "
                f"and run the same command again, or point --store to another disk"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(
                f"{path} can't be written ({error.strerror}); choose another --store or --output"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StoreError(
                f"{path}: a file stands where a folder is needed; choose another --store or --output"
            ) from error
        raise StoreError(f"{path}: {error.strerror or error}") from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], None] | bytes) -> None:
    """Write a file beside its place and move it there: readers see the old one or the new one, never a part.

    Raises:
        StoreError: it can't be written; nothing is left behind.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                if callable(write):
                    write(file)
                else:
                    file.write(write)
            part.chmod(0o644)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_json(path: Path, data: Any, *, indent: int | None = None) -> None:
    """Write JSON data atomically."""
    write_atomically(path, (json.dumps(data, ensure_ascii=False, indent=indent, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any | None:
    """Return the JSON data of a file; None where there is none, or where it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
