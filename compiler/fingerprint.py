"""Content hashes of what a recipe depends on: files, folders, Python files with what they import, options, tools.

A fingerprint changes whenever the thing it names could give another result, and never because of where the
recipe lies or when its files were written. Only the standard library is used, so that a warm compile stays fast.

Seen: the bytes of every file an option names; for a Python file, also the modules beside it that it imports,
directly or through others (found in the source text with `ast`, nothing is run). Not seen: files that a Python
file opens itself, and packages it imports, unless `tools` names them.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mopt.plugin.options import canonical
from mopt.values import Location, PythonRef

_REMEMBERED_FROM = 1 << 18
"""Bytes; hashing anything smaller costs less than looking it up is worth."""

_SETTLED_AFTER = 2.0
"""Seconds; a file written more recently could change again within one tick of the clock that stamps it."""


class FileHashes:
    """Hashes of files, remembered by path, size and modification time.

    Args:
        store: a JSON file that keeps the hashes of large files between runs, or None to keep them in memory.
            A damaged or unwritable one costs time, never correctness.
    """

    def __init__(self, store: Path | None = None) -> None:
        self._store = store
        self._known: dict[str, list[Any]] = {}
        self._changed = False
        if store is not None:
            try:
                loaded = json.loads(store.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                loaded = {}
            if isinstance(loaded, dict):
                self._known = {key: value for key, value in loaded.items() if isinstance(value, list)}

    def of(self, path: Path) -> str:
        """Return the BLAKE2b hash of a file's bytes (hex, 32 bytes).

        Raises:
            OSError: it can't be read.
        """
        status = path.stat()
        key = str(path.resolve())
        stamp = [status.st_size, status.st_mtime_ns]
        known = self._known.get(key)
        if known is not None and known[:2] == stamp and len(known) == 3:
            return str(known[2])
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
        if status.st_size >= _REMEMBERED_FROM and time.time() - status.st_mtime > _SETTLED_AFTER:
            self._known[key] = [*stamp, digest]
            self._changed = True
        return digest

    def save(self) -> None:
        """Write what was learnt to the store, atomically; a full or read-only disk is no error."""
        if self._store is None or not self._changed:
            return
        try:
            self._store.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._store.parent, prefix=self._store.name)
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump(self._known, stream)
                Path(temporary).replace(self._store)
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError:
            return
        self._changed = False


def fingerprint_files(*locations: Location | PythonRef | Path, hashes: FileHashes | None = None) -> str:
    """Return one hash over the content of files and folders, in the order given.

    A folder counts with every file in it and their names below it; a `.py` file with the modules beside it that
    it imports (its own folder, and the recipe's folder where the location knows it).

    Raises:
        LocationError: one of them is not there.
        OSError: one of them can't be read.
    """
    known = hashes if hashes is not None else FileHashes()
    return _digest([_content(location, known) for location in locations])


def fingerprint(plugin: Any, *, hashes: FileHashes | None = None, extra: Mapping[str, Any] | None = None) -> str:
    """Return the hash of a configured plug-in: its kind, version, options, files and the versions of its tools.

    Every `Location` and `PythonRef` among its options, however deep, counts with its content. A plug-in that
    depends on files its options do not name gives them by a method `files() -> Iterable[Path]`.

    Args:
        plugin: a source, data set, loss, metric, target or pass (a frozen dataclass).
        hashes: remembered file hashes.
        extra: more plain data that decides the result (a seed).

    Raises:
        LocationError: a file is not there.
        OSError: a file can't be read.
    """
    known = hashes if hashes is not None else FileHashes()
    more: Callable[[], Iterable[Path]] | None = getattr(plugin, "files", None)
    return _digest(
        {
            "class": f"{type(plugin).__module__}:{type(plugin).__qualname__}",
            "version": getattr(plugin, "version", 1),
            "options": canonical(plugin),
            "content": [_content(location, known) for location in locations(plugin)],
            "more": [known.of(path) for path in more()] if callable(more) else [],
            "tools": tool_versions(getattr(plugin, "tools", ())),
            "extra": dict(extra or {}),
        }
    )


def locations(value: Any) -> Iterator[Location | PythonRef]:
    """Yield every path among a plug-in's options, in a fixed order."""
    if isinstance(value, (Location, PythonRef)):
        yield value
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from locations(value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from locations(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from locations(getattr(value, field.name))


def tool_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each package, without importing it; "" where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in sorted(packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def python_files(file: Path, folders: Iterable[Path] = ()) -> tuple[Path, ...]:
    """Return a Python file and every module it imports, transitively, from its own folder or `folders`.

    Found in the text, so imports that are computed at run time stay unseen. A file with a syntax error counts
    alone: whoever runs it reports the error.
    """
    start = file.resolve()
    roots = [start.parent, *(folder.resolve() for folder in folders)]
    seen: dict[Path, None] = {start: None}
    waiting = [start]
    while waiting:
        current = waiting.pop()
        for name, level in _imports(current):
            for found in _module_files(name, level, current, roots):
                if found not in seen:
                    seen[found] = None
                    waiting.append(found)
    return (start, *sorted(path for path in seen if path != start))


def _content(location: Location | PythonRef | Path, hashes: FileHashes) -> Any:
    if isinstance(location, PythonRef):
        location = location.file
    base = Path(location.base) if isinstance(location, Location) and location.base else None
    path = location.resolve() if isinstance(location, Location) else location
    if path.is_dir():
        inner = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        return [[p.relative_to(path).as_posix(), hashes.of(p)] for p in inner]
    if path.suffix == ".py":
        return [[p.name, hashes.of(p)] for p in python_files(path, [base] if base else [])]
    return hashes.of(path)


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, 0
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level
            for alias in node.names:  # `from package import module`
                yield f"{node.module}.{alias.name}" if node.module else alias.name, node.level
        elif (
            isinstance(node, ast.Call)
            and (getattr(node.func, "attr", None) or getattr(node.func, "id", None)) in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            yield node.args[0].value, 0


def _module_files(name: str, level: int, importer: Path, roots: list[Path]) -> Iterator[Path]:
    parts = [part for part in name.split(".") if part]
    bases = roots
    if level:
        base = importer.parent
        for _ in range(level - 1):
            base = base.parent
        bases = [base]
    for base in bases:
        found = list(_files_on_the_way(base, parts))
        if found:
            yield from found
            return


def _files_on_the_way(base: Path, parts: list[str]) -> Iterator[Path]:
    # importing a.b.c runs a/__init__.py and a/b/__init__.py first
    folder = base
    for index, part in enumerate(parts):
        if index == len(parts) - 1 and (folder / f"{part}.py").is_file():
            yield (folder / f"{part}.py").resolve()
            return
        folder = folder / part
        if not folder.is_dir():
            if folder.with_name(f"{part}.py").is_file():  # `from module import name`
                yield folder.with_name(f"{part}.py").resolve()
            return
        if (folder / "__init__.py").is_file():
            yield (folder / "__init__.py").resolve()


def _digest(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()
