"""`Store`: what has been finished, found again by content. Safe for several processes at once.

Layout below its root: `tensors/` (one file a tensor), `snapshots/` (graphs), `records/<kind>/` (JSON: finished
steps, measurements), `artifacts/` (folders a target emitted), `checkpoints/` (where unfinished steps stopped),
`recordings/` (what models put out on data), `tmp/` (work in progress).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.store.files import StoreError, read_json, storage_errors, write_json
from mopt.store.locks import locked

if TYPE_CHECKING:
    from mopt.ir.module import Module


_DAY = 86400.0
"""Seconds."""
_ABANDONED_AFTER = 30 * _DAY

FORMAT = "v1"
"""The layout and the records' fields; raised when either changes, so that no version reads another's records."""


def default_root() -> Path:
    """Return where the store is when nothing else is said: `$MOPT_STORE`, else the user's cache folder."""
    if configured := os.environ.get("MOPT_STORE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mopt"


class Store:
    """A content-addressed store on disk.

    Args:
        root: its folder, made on first use; everything lies in a folder of it that is named after the format.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute() / FORMAT
        self.snapshots = self.root / "snapshots"
        self.tensors = self.root / "tensors"
        self._artifacts = self.root / "artifacts"
        with storage_errors(self.root):
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)

    def put_module(self, module: Module) -> str:
        """Write a snapshot and return its digest."""
        from mopt.store.snapshot import save_snapshot

        return save_snapshot(module, self.snapshots, self.tensors)

    def get_module(self, digest: str) -> Module:
        """Load a snapshot.

        Raises:
            StoreError: it is missing or damaged.
        """
        from mopt.store.snapshot import load_snapshot

        _mark_used(self.snapshots / digest[:2] / f"{digest}.onnx")
        return load_snapshot(digest, self.snapshots, self.tensors)

    def has_module(self, digest: str) -> bool:
        """Say whether a snapshot is here, whole; one that lost a file is made anew."""
        from mopt.store.snapshot import is_whole

        if not is_whole(digest, self.snapshots, self.tensors):
            return False
        _mark_used(self.snapshots / digest[:2] / f"{digest}.onnx")
        return True

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """Return what was recorded under a key, or None."""
        place = self.root / "records" / kind / key[:2] / f"{key}.json"
        data = read_json(place)
        if not isinstance(data, dict):
            return None
        _mark_used(place)
        return data

    def put_record(self, kind: str, key: str, data: dict[str, Any]) -> None:
        """Record JSON data under a key."""
        write_json(self.root / "records" / kind / key[:2] / f"{key}.json", data)

    def artifact(self, key: str) -> Path | None:
        """Return the folder of an emitted artifact, or None."""
        folder = self._artifacts / key[:2] / key
        if not folder.is_dir():
            return None
        _mark_used(folder)
        return folder

    def put_artifact(self, key: str, folder: Path) -> Path:
        """Move a finished folder (made by `scratch`) into the store and return its place."""
        place = self._artifacts / key[:2] / key
        with storage_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            for file in folder.rglob("*"):
                if file.is_file():
                    # Output folders link to these files: nobody is to change them in place.
                    file.chmod(0o444)
            try:
                folder.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
                # Another process finished the same artifact first; both are the same by construction.
                shutil.rmtree(folder, ignore_errors=True)
        return place

    def checkpoints(self, key: str) -> Path:
        """Return the folder for what an unfinished step needs to go on where it stopped; it may not exist yet."""
        return self.root / "checkpoints" / key[:2] / key

    def drop_checkpoints(self, key: str) -> None:
        """Remove a finished step's checkpoints."""
        shutil.rmtree(self.checkpoints(key), ignore_errors=True)

    def recordings(self, key: str) -> Path:
        """Return the folder for what a model puts out on data; it may not exist yet."""
        folder = self.root / "recordings" / key[:2] / key
        with contextlib.suppress(OSError):  # it is not there, or on a disk that can only be read
            os.utime(folder)
        return folder

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Open an empty folder on the store's disk; what is left in it is removed on leaving."""
        with storage_errors(self.root):
            folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=self.root / "tmp"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def hold(self) -> AbstractContextManager[None]:
        """Keep others from removing anything meanwhile (`alone`); any number of processes may hold a store."""
        return locked(self.root / ".lock", shared=True)

    def alone(self) -> AbstractContextManager[None]:
        """Have the store alone.

        Raises:
            StoreError: on entering, where a process holds it.
        """

        def refuse() -> None:
            raise StoreError(f"a compile is using {self.root}; run the same command again when it has ended")

        return locked(self.root / ".lock", busy=refuse)

    def sweep(self) -> None:
        """Remove what killed processes left in `tmp/`; checkpoints and recordings that nobody used for a month."""
        for folder in (self.root / "tmp").iterdir():
            owner = folder.name.partition("-")[0]
            if owner.isdigit() and not _alive(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (*(self.root / "checkpoints").glob("*/*"), *(self.root / "recordings").glob("*/*")):
            with contextlib.suppress(OSError):  # another process may be removing it
                if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER:
                    shutil.rmtree(folder, ignore_errors=True)


def _mark_used(place: Path) -> None:
    """Note when something was last read, to a day: `prune` removes what was not used for long."""
    with contextlib.suppress(OSError):  # it is not there, or on a disk that can only be read
        if time.time() - place.stat().st_mtime > _DAY:
            os.utime(place)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


__all__ = ["Store", "StoreError", "default_root"]
