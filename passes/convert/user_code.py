"""Run what a recipe's author wrote, and say what went wrong in it in terms of their file, not of ours."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mopt.runtime.contract import SourceError
from mopt.values import LocationError, PythonRef


def load_attribute(reference: PythonRef) -> Any:
    """Import a Python file of the recipe's author and return one name of it.

    The file's own folder and the recipe's folder are importable while it runs (and stay so: factories import
    late). Run this in a process of its own: the file may do anything.

    Raises:
        SourceError: the file is missing, broken, raises, or has no such name.
    """
    path = resolve(reference)
    for folder in (reference.file.base, str(path.parent)):
        if folder and folder not in sys.path:
            sys.path.insert(0, folder)
    name = path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) != str(path):
        name = f"recipe_{path.stem}"  # a file called `types.py` must not replace a module that is in use
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SourceError(f"`{reference}`: {path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with blamed(f"`{reference.file}`", path.parent):
        spec.loader.exec_module(module)
    found: Any = module
    for part in reference.attribute.split("."):
        if not hasattr(found, part):
            known = [key for key in dir(found) if not key.startswith("_")]
            close = difflib.get_close_matches(part, known, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else f"; it has {_listed(_own_names(module))}"
            raise SourceError(f"`{reference.file}` has no `{reference.attribute}`{hint}")
        found = getattr(found, part)
    return found


def resolve(reference: PythonRef) -> Path:
    """Return the path of a reference's file.

    Raises:
        SourceError: there is none.
    """
    try:
        path = reference.file.resolve()
    except LocationError as error:
        raise SourceError(f"`{reference}`: {error}") from error
    if not path.is_file():
        raise SourceError(f"`{reference}`: {path} is a folder, not a Python file")
    return path


def call_factory(factory: Any, reference: PythonRef, arguments: Mapping[str, object]) -> Any:
    """Call a factory with the recipe's `args`.

    Raises:
        SourceError: it can't be called so, or raises.
    """
    if not callable(factory):
        raise SourceError(f"`{reference}` is {described(factory)}, not a function or class that returns the model")
    with contextlib.suppress(ValueError):  # no signature to be had (some C classes): call it and see
        try:
            inspect.signature(factory).bind(**arguments)
        except TypeError as error:
            wanted = str(inspect.signature(factory))
            raise SourceError(
                f"`{reference}` can't be called with {_arguments(arguments)}: {error}; its signature is {wanted} "
                "(give its arguments by `args={…}`)"
            ) from error
    with blamed(f"`{reference}`", resolve(reference).parent):
        return factory(**arguments)


@contextlib.contextmanager
def blamed(what: str, folder: Path) -> Iterator[None]:
    """Turn whatever user code raises into a SourceError that shows the lines of the user's own files.

    Args:
        what: the subject of the message (`` `model.py:Net` ``).
        folder: frames of files below it are the user's.
    """
    try:
        yield
    except SourceError:
        raise
    except SystemExit as error:
        raise SourceError(f"{what} calls sys.exit({error.code!r}){_frames(error, folder)}") from error
    except SyntaxError as error:
        place = f"{Path(error.filename or '?').name}:{error.lineno}"
        line = (error.text or "").strip()
        raise SourceError(f"{what}: syntax error at {place}: {error.msg}\n    {line}".rstrip()) from error
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        raise SourceError(
            f"{what} imports `{missing}`, which is not installed and not beside it{_frames(error, folder)}"
        ) from error
    except Exception as error:
        text = _message(error)
        raise SourceError(f"{what} raised {type(error).__name__}: {text}{_frames(error, folder)}") from error


def described(value: Any) -> str:
    """Say what a value is, for a message: `None`, `a tensor`, `the class Net (call it)`."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class `{value.__name__}` itself, not an instance of it"
    if inspect.isfunction(value):
        return f"the function `{value.__name__}`"
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def in_phase(phase: Callable[[str], None] | None, text: str) -> None:
    """Tell whoever watches what is being done, so that a crash can be placed."""
    if phase is not None:
        phase(text)


def _message(error: Exception) -> str:
    text = str(error).strip() or "(no message)"
    if "Traceback of TorchScript" in text:  # its own stack of serialised code, then the message
        return text.splitlines()[-1].strip()
    return text if len(text) <= 1500 else f"{text[:1500]} …"


def _frames(error: BaseException, folder: Path) -> str:
    root = folder.resolve()
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if not path.is_absolute() or not path.resolve().is_relative_to(root) or "site-packages" in _below(path, root):
            continue
        name = path.resolve().relative_to(root).as_posix()
        lines.append(f"\n  {name}:{frame.lineno} in {frame.name}: {(frame.line or '').strip()}".rstrip(": "))
    return "".join(lines[-8:])


def _below(path: Path, root: Path) -> tuple[str, ...]:
    return path.resolve().relative_to(root).parts


def _own_names(module: Any) -> list[str]:
    return [
        key
        for key, value in vars(module).items()
        if not key.startswith("_") and callable(value) and getattr(value, "__module__", None) == module.__name__
    ]


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:8]) if names else "no function or class of its own"


def _arguments(arguments: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items()) if arguments else "no arguments"
