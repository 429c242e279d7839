"""Keeping what is timed on the same cores: a thread that the system moves finds cold caches on the other core."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator


@contextlib.contextmanager
def pinned(threads: int = 1) -> Iterator[tuple[int, ...]]:
    """Keep this thread, and those it starts meanwhile, on as many cores as there are threads; yield those cores.

    The first is the one that it runs on, which the system chose for being idle; what was allowed before is allowed
    again afterwards. Yields nothing where the system has no such calls, allows no choice, or refuses.

    Args:
        threads: how many run at once.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    before = os.sched_getaffinity(0)
    cores = _cores(sorted(before), threads, _current())
    if not cores:
        yield ()
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError:  # some sandboxes refuse
        yield ()
        return
    try:
        yield cores
    finally:
        os.sched_setaffinity(0, before)


def _cores(allowed: list[int], threads: int, current: int) -> tuple[int, ...]:
    if threads >= len(allowed):
        return ()
    first = allowed.index(current) if current in allowed else 0
    return tuple((allowed[first:] + allowed[:first])[:threads])


def _current() -> int:
    """Return the core that this thread runs on; -1 where that can't be told."""
    try:
        return int(ctypes.CDLL(None).sched_getcpu())
    except (OSError, AttributeError):
        return -1
