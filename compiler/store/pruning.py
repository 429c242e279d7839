"""What the store holds, and how it gets smaller: what was not used for long goes first.

A snapshot shares its tensors with others; a tensor goes with the last snapshot that refers to it. Nothing that is
removed is lost for good: the next compile that needs it makes it anew.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mopt.store.files import read_json, storage_errors

if TYPE_CHECKING:
    from mopt.store.store import Store

Kind = Literal["snapshots", "artifacts", "records", "recordings", "checkpoints"]
KINDS: Final[tuple[Kind, ...]] = ("snapshots", "artifacts", "records", "recordings", "checkpoints")


@dataclass(frozen=True)
class Entry:
    """One thing in the store.

    Attributes:
        places: its files, or its folder; of a snapshot the graph first, since without that it counts for nothing.
        used: when it was last read or written, in seconds since 1970; to a day for what is only read.
        bytes: of its own files, without the tensors it shares.
        tensors: files of tensors that it refers to.
    """

    kind: Kind
    places: tuple[Path, ...]
    used: float
    bytes: int
    tensors: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Contents:
    """Everything in a store. `tensors` are the sizes in bytes of the files that snapshots refer to, and of others."""

    entries: tuple[Entry, ...]
    tensors: dict[Path, int]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(entry.bytes for entry in self.entries) + sum(self.tensors.values())


@dataclass
class Pruned:
    """What was removed (or would be): how many of each kind, tensors counted apart, and their bytes."""

    counts: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    left: int = 0


def contents(store: Store) -> Contents:
    """Look through a store."""
    with storage_errors(store.root):
        tensors = {path: path.stat().st_size for path in sorted(store.tensors.glob("*/*")) if path.is_file()}
        return Contents((*_snapshots(store), *_records(store), *_folders(store)), tensors)


def prune(
    store: Store, *, unused: float | None = None, keep: int | None = None, dry: bool = False, now: float | None = None
) -> Pruned:
    """Remove what was not used for `unused` seconds, then what was not used for longest until `keep` bytes are left.

    Tensors that no snapshot refers to go in any case. With `dry` nothing is touched.

    Raises:
        StoreError: a compile uses the store, or it can't be written.
    """
    with store.alone():
        found = contents(store)
        references = Counter(path for entry in found.entries for path in entry.tensors)
        removed, left = Pruned(), found.bytes
        for path in found.tensors.keys() - references.keys():
            left -= _remove_tensor(path, found.tensors, removed, dry=dry)
        now = time.time() if now is None else now
        for entry in sorted(found.entries, key=lambda one: (one.used, one.places)):
            old = unused is not None and now - entry.used >= unused
            # Records are small, and hold the figures of a build whose models are gone: room is not made of them.
            large = keep is not None and left > keep and entry.kind != "records"
            if not old and not large:
                continue
            removed.counts[entry.kind] += 1
            removed.bytes += entry.bytes
            left -= entry.bytes
            if not dry:
                _remove(entry.places)
            references.subtract(entry.tensors)
            for path in set(entry.tensors):
                if references[path] == 0:
                    left -= _remove_tensor(path, found.tensors, removed, dry=dry)
        removed.left = left
        return removed


def _remove_tensor(path: Path, sizes: dict[Path, int], removed: Pruned, *, dry: bool) -> int:
    size = sizes.get(path, 0)
    removed.counts["tensors"] += path in sizes
    removed.bytes += size
    if not dry:
        _remove((path,))
    return size


def _remove(places: Iterable[Path]) -> None:
    for place in places:
        with storage_errors(place):
            if place.is_dir():
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=True)


def _snapshots(store: Store) -> Iterator[Entry]:
    for listing in sorted(store.snapshots.glob("*/*.json")):
        graph = listing.with_suffix(".onnx")
        data = read_json(listing)
        names = data["tensors"] if isinstance(data, dict) and "tensors" in data else {}
        tensors = tuple(store.tensors / name[:2] / name for name in names)
        files = [path.stat() for path in (graph, listing) if path.is_file()]
        used = max((file.st_mtime for file in files), default=0.0)
        yield Entry("snapshots", (graph, listing), used, sum(file.st_size for file in files), tensors)


def _records(store: Store) -> Iterator[Entry]:
    for path in sorted((store.root / "records").rglob("*.json")):
        file = path.stat()
        yield Entry("records", (path,), file.st_mtime, file.st_size)


def _folders(store: Store) -> Iterator[Entry]:
    kinds: tuple[Kind, ...] = ("artifacts", "recordings", "checkpoints")
    for kind in kinds:
        for folder in sorted((store.root / kind).glob("*/*")):
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            yield Entry(kind, (folder,), folder.stat().st_mtime, size)
