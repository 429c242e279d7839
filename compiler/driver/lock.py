"""One compile of a recipe at a time: a second one waits, then finds everything done."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.store.files import storage_errors

if TYPE_CHECKING:
    from mopt.build.progress import Reporter


@contextlib.contextmanager
def only_one(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the output folder; the operating system lets go of it when the process ends, however it ends."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(handle, folder, reporter)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, folder: Path, reporter: Reporter) -> None:
    try:
        import fcntl
    except ImportError:  # no advisory locks on this system: the store alone keeps results whole
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        reporter.line(f"another compile writes to {folder}; waiting for it")
        fcntl.flock(handle, fcntl.LOCK_EX)
