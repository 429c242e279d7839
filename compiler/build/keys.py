"""The cache keys: everything that decides a result, and nothing else."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mopt
from mopt.fingerprint import FileHashes, fingerprint
from mopt.plan.references import references
from mopt.recipe import Recipe
from mopt.runtime.contract import Sizes
from mopt.store.files import digest_of
from mopt.values import DataRef, ModelRef

_SHARED = ("ir", "rewrite", "analysis")
"""The parts of mopt that every pass, source and target stands on."""


def _implementation(cls: type) -> str:
    """Digest the code behind a plug-in, so that editing it never serves its old results.

    That is the folder of Python files it lives in, with those below, and for mopt's own the parts they stand on.
    """
    try:
        folder = Path(inspect.getfile(cls)).resolve().parent
    except (OSError, TypeError):
        return "unknown"
    shared = [_folder(Path(mopt.__file__).resolve().parent / part) for part in _SHARED]
    own = cls.__module__.partition(".")[0] == "mopt"
    further = [_folder(_package(name)) for name in getattr(cls, "stands_on", ())]
    return digest_of([_folder(folder), *(shared if own else ()), *further])


def _package(name: str) -> Path:
    """Return the folder of a package of mopt (`runtime.training`), importing nothing of it but its parents."""
    spec = importlib.util.find_spec(f"mopt.{name}")
    assert spec is not None and spec.origin is not None, name
    return Path(spec.origin).resolve().parent


@functools.cache
def _folder(folder: Path) -> str:
    return digest_of([[str(path.relative_to(folder)), path.read_text(encoding="utf-8")] for path in _python(folder)])


def _python(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if path.is_file())


class Keys:
    """Keys of everything a recipe computes. Files are read once.

    Args:
        recipe: the checked recipe.
        hashes: remembered hashes of large files.
    """

    def __init__(self, recipe: Recipe, hashes: FileHashes) -> None:
        self._recipe = recipe
        self._hashes = hashes
        self._prints: dict[tuple[str, str], str] = {}

    def plugin(self, plugin: Any) -> str:
        """Digest a plug-in instance: options, files, versions of its tools, its own code.

        Raises:
            LocationError: a file it names is not there.
        """
        cls: type = type(plugin)
        extra = {"mopt": mopt.__version__, "code": _implementation(cls), "seed": self._recipe.seed}
        return fingerprint(plugin, hashes=self._hashes, extra=extra)

    def source(self, source: Any) -> str:
        """Key of a lowered model."""
        return digest_of(["source", self.plugin(source)])

    def data(self, reference: DataRef) -> str:
        """Key of a data reference: its source's content and the slice."""
        return digest_of([self._declared("data", reference.name), str(reference)])

    def metric(self, name: str) -> str:
        """Key of a metric or a loss, by name."""
        return self._declared("metrics" if name in self._recipe.metrics else "losses", name)

    def step(self, operation: Any, parent: str, models: Mapping[str, str], promises: Any) -> str:
        """Key of a pass on a snapshot. `models` gives the snapshots of the models its options name."""
        named = {}
        for value in references(operation):
            match value:
                case DataRef():
                    named[str(value)] = self.data(value)
                case ModelRef():
                    named[value.name] = models[value.name]
                case _:
                    named[value.name] = self.metric(value.name)
        return digest_of(["step", parent, self.plugin(operation), named, promises])

    def recording(self, snapshot: str, data: DataRef) -> str:
        """Key of what a snapshot puts out on data."""
        return digest_of(["recording", snapshot, self.data(data)])

    def artifact(self, target: Any, snapshot: str, sizes: Sizes | None) -> str:
        """Key of what a target emits for a snapshot, at sizes if it depends on them."""
        stated = [list(sizes.batches), dict(sizes.bind)] if sizes is not None else None
        return digest_of(["artifact", snapshot, self.plugin(target), stated])

    def _declared(self, kind: str, name: str) -> str:
        if (kind, name) not in self._prints:
            field = {"data": "source", "metrics": "metric", "losses": "loss"}[kind]
            self._prints[kind, name] = self.plugin(getattr(getattr(self._recipe, kind)[name], field))
        return self._prints[kind, name]
