"""Locks between processes, which the operating system lets go of when a process ends, however it ends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mopt.store.files import storage_errors


@contextmanager
def locked(path: Path, *, shared: bool = False, busy: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file, which is made where it is missing; wait for whoever holds it.

    Without advisory locks on this system nothing is held: the store alone keeps results whole.

    Args:
        path: the file, in a folder that is there.
        shared: any number of processes may share it, none while another has it alone.
        busy: called before waiting; what it raises is raised.

    Raises:
        StoreError: the file can't be made.
    """
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(handle, shared, busy)
        yield
    finally:
        os.close(handle)


def _acquire(handle: int, shared: bool, busy: Callable[[], None] | None) -> None:
    try:
        import fcntl
    except ImportError:
        return
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if busy is not None:
            busy()
        fcntl.flock(handle, kind)
