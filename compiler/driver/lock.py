"""One compile of a recipe at a time: a second one waits, then finds everything done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.store.files import storage_errors
from mopt.store.locks import locked

if TYPE_CHECKING:
    from mopt.build.progress import Reporter


@contextlib.contextmanager
def only_one(folder: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the output folder."""
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    waiting = f"another compile writes to {folder}; waiting for it"
    with locked(folder / ".lock", busy=lambda: reporter.line(waiting)):
        yield
