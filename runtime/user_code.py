"""Run the Python of a recipe's author: found, imported, called and iterated with errors told in their terms.

While their code runs, their folders are importable and whatever they print goes to stderr, so that the standard
output of `--json` stays JSON.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib.util
import inspect
import linecache
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mopt.runtime.contract import DataError
from mopt.values import LocationError, PythonRef

_Item = TypeVar("_Item")


def load(reference: PythonRef) -> Any:
    """Import a Python file of the recipe's author and return the name it is asked for.

    Raises:
        DataError: the file is missing or fails to import, or has no such name.
    """
    try:
        path = reference.file.resolve().resolve()
    except LocationError as error:
        raise DataError(f"`{reference}`: {error}") from error
    if not path.is_file():
        raise DataError(f"`{reference}`: {path.name} is not a file")
    with running(reference):
        module = _module(path)
    if not hasattr(module, reference.attribute):
        own = [name for name in vars(module) if not name.startswith("_")]
        close = difflib.get_close_matches(reference.attribute, own, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        raise DataError(f"`{reference.file}` defines no `{reference.attribute}`{hint}")
    return getattr(module, reference.attribute)


def call(reference: PythonRef, function: Any, arguments: Mapping[str, Any]) -> Any:
    """Call something the author wrote with keyword arguments.

    Raises:
        DataError: it is not callable, does not take these arguments, or raises.
    """
    if not callable(function):
        raise DataError(f"`{reference}` is {described(function)}; a function or a class is expected there")
    with contextlib.suppress(ValueError):  # some builtins have no signature to look at
        signature = inspect.signature(function)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            given = ", ".join(arguments) or "nothing"
            raise DataError(f"`{reference}{signature}` can't be called with {given}: {error}") from None
    with running(reference):
        return function(**arguments)


def takes(function: Any, name: str) -> bool:
    """Say whether a callable has a parameter of this name (or takes any)."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@contextlib.contextmanager
def running(
    reference: PythonRef | str, doing: str = "", error: Callable[[str], Exception] = DataError
) -> Iterator[None]:
    """Run a block as the author's code: their folders importable, output to stderr, exceptions told in their terms.

    Args:
        reference: what is run, for the message and the folders.
        doing: what it was doing, where the name alone does not say so (`giving sample 17`).
        error: what to raise in place of an exception of theirs.
    """
    with importable(_folders(reference)), contextlib.redirect_stdout(sys.stderr):
        try:
            yield
        except (DataError, KeyboardInterrupt, GeneratorExit, MemoryError):
            raise
        except SyntaxError as caught:
            raise error(f"`{reference}`: {_name(caught.filename)}:{caught.lineno}: {caught.msg}") from caught
        except (Exception, SystemExit) as caught:
            where = _where(caught)
            told = f"{type(caught).__name__}: {caught}" if str(caught) else type(caught).__name__
            raise error(f"`{reference}` failed{f' {doing}' if doing else ''} with {told}{where}") from caught


def guarded(items: Iterable[_Item], reference: PythonRef | str) -> Iterator[_Item]:
    """Iterate over something the author wrote; only their steps run as their code, not what is done with an item."""
    with running(reference, "when asked for its samples"):
        iterator = iter(items)
    number = 0
    while True:
        with running(reference, f"giving sample {number}"):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
        number += 1


def described(value: Any) -> str:
    """Return what a value is, with its article: `an int`, `None`."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


@contextlib.contextmanager
def importable(folders: Iterable[str]) -> Iterator[None]:
    """Put folders first on the import path for a while."""
    added = [folder for folder in dict.fromkeys(folders) if folder and folder not in sys.path]
    sys.path[:0] = added
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):  # the author's code may have removed it
                sys.path.remove(folder)


@functools.cache
def _folders(reference: PythonRef | str) -> tuple[str, ...]:
    if isinstance(reference, str):
        return ()
    with contextlib.suppress(LocationError):
        return (str(reference.file.resolve().resolve().parent), str(Path(reference.file.base or ".").resolve()))
    return ()


def _module(path: Path) -> ModuleType:
    """Import a file under a name of its own: two recipes' `data.py` must not be taken for each other."""
    status = path.stat()
    _forget_namesakes(path.parent)
    name = f"mopt_recipe_{abs(hash((str(path), status.st_mtime_ns, status.st_size))):x}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise DataError(f"`{path.name}` is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as dataclasses and pickling inside it look it up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _forget_namesakes(folder: Path) -> None:
    """Drop modules that another recipe's folder brought in under a name that this folder defines, too."""
    for file in folder.glob("*.py"):
        known = getattr(sys.modules.get(file.stem), "__file__", None)
        if known is None or "site-packages" in known or known.startswith(sys.base_prefix):
            continue
        if Path(known).resolve() != file.resolve():
            del sys.modules[file.stem]


def _where(error: BaseException) -> str:
    """Return ` at FILE:LINE: SOURCE` of the innermost frame that is neither ours nor an installed package's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = frame.filename
        if "site-packages" in path or path.startswith("<") or path.startswith(sys.base_prefix + "/lib"):
            continue
        if Path(path).resolve().is_relative_to(Path(__file__).resolve().parent):
            continue
        line = linecache.getline(path, frame.lineno or 0).strip()
        return f"\n  at {_name(path)}:{frame.lineno}" + (f": {line}" if line else "")
    return ""


def _name(path: str | None) -> str:
    return Path(path).name if path else "?"
