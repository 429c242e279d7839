"""Emitting: a snapshot and a target give an artifact, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.build.outcome import Failure
from mopt.plugin import Registry
from mopt.runtime.contract import Artifact, TargetError

if TYPE_CHECKING:
    from mopt.build.executor import Executor
    from mopt.build.keys import Keys
    from mopt.build.progress import Reporter
    from mopt.recipe import TargetDecl
    from mopt.runtime.contract import Runner, Sizes
    from mopt.store import Store


@dataclass(frozen=True)
class Emitted:
    """An artifact in the store.

    `snapshot` is the module it was made from, after the target's own preparation; `warnings` are what that warned of.
    """

    key: str
    snapshot: str
    artifact: Artifact
    cached: bool
    warnings: tuple[str, ...] = ()


class Emitter:
    """Emits snapshots for one target and opens what was emitted.

    Args:
        target: the declared target.
        sizes: what the recipe says of the sizes models will be run at.
        store, keys, executor, registry, reporter: the build it belongs to.
    """

    def __init__(
        self,
        target: TargetDecl,
        sizes: Sizes,
        store: Store,
        keys: Keys,
        executor: Executor,
        registry: Registry,
        reporter: Reporter,
    ) -> None:
        self.declaration = target
        self._sizes = sizes
        self._store, self._keys, self._executor = store, keys, executor
        self._registry, self._reporter = registry, reporter
        self._done: dict[str, Emitted | Failure] = {}

    @property
    def name(self) -> str:
        """The target's name in the recipe."""
        return self.declaration.name

    def emit(self, snapshot: str, label: str) -> Emitted | Failure:
        """Return the artifact of a snapshot, making it where the store has none."""
        if snapshot not in self._done:
            self._done[snapshot] = self._emit(snapshot, label)
        return self._done[snapshot]

    def open(self, emitted: Emitted) -> Runner:
        """Load an artifact.

        Raises:
            TargetError: it can't be run on this machine.
        """
        return self.declaration.target.open(emitted.artifact)

    def _emit(self, snapshot: str, label: str) -> Emitted | Failure:
        target = self.declaration.target
        warnings: list[str] = []
        for name, options in target.prepare():
            operation = self._registry.get("passes", name)(**options)
            outcome = self._executor.apply(operation, snapshot, f"{label}→{self.name}")
            if outcome.failure is not None:
                return outcome.failure
            assert outcome.snapshot is not None
            snapshot = outcome.snapshot
            warnings += [note.message for note in outcome.notes if note.severity == "warning"]
        sizes = self._sizes if type(target).sized else None
        key = self._keys.artifact(target, snapshot, sizes)
        folder = self._store.artifact(key)
        record = self._store.record("artifacts", key) if folder else None
        if folder is not None and record is not None and all((folder / name).is_file() for name in record["files"]):
            return Emitted(key, snapshot, _from_record(folder, record), cached=True, warnings=tuple(warnings))
        text = f"{label} → {self.name}"
        try:
            with self._reporter.activity(f"emitting {text}"), self._store.scratch() as scratch:
                place = scratch / "artifact"
                place.mkdir()
                artifact = target.emit(self._store.get_module(snapshot), place, sizes)
                record = _to_record(place, artifact)
                folder = self._store.put_artifact(key, place)
        except TargetError as error:
            self._reporter.line(f"error: {text}: {error}", style="bold red")
            return Failure.of(error, str(self.declaration.place))
        self._store.put_record("artifacts", key, record)
        self._reporter.line(f"  emitted {text}  {record['bytes'] / 1024:.0f} KiB")
        return Emitted(key, snapshot, _from_record(folder, record), cached=False, warnings=tuple(warnings))


def _to_record(folder: Path, artifact: Artifact) -> dict[str, Any]:
    return {
        "path": artifact.path.relative_to(folder).as_posix(),
        "files": [path.relative_to(folder).as_posix() for path in artifact.files],
        "bytes": artifact.bytes,
        "compressed": artifact.compressed,
        "notes": list(artifact.notes),
    }


def _from_record(folder: Path, record: dict[str, Any]) -> Artifact:
    return Artifact(
        path=folder / record["path"],
        files=tuple(folder / name for name in record["files"]),
        bytes=record["bytes"],
        compressed=record["compressed"],
        notes=tuple(record["notes"]),
    )
