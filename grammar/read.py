"""Recipe files to text, and what can be wrong before there is any text."""

from __future__ import annotations

from pathlib import Path

from mopt.grammar.diagnostics import Diagnostic, Label, nearest
from mopt.grammar.source import Source

MAX_BYTES = 64 << 20
"""A recipe file larger than this is something else."""


def read(path: Path, shown: str | None = None) -> tuple[Source | None, tuple[Diagnostic, ...]]:
    """Read one recipe file; the source is None where there is no text to go on with.

    Args:
        path: the file.
        shown: the name it has in diagnostics, `path` as given if None.
    """
    name = shown if shown is not None else str(path)
    try:
        if path.is_dir():
            return None, (_whole_file("E0002", f"`{name}` is a folder, not a recipe", name, _recipes_in(path)),)
        if path.exists() and not path.is_file():
            return None, (_whole_file("E0002", f"`{name}` is no regular file", name, "give a `.mopt` file"),)
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            help = f"a recipe has at most {MAX_BYTES >> 20} MiB; is this a model?"
            return None, (_whole_file("E0002", f"`{name}` is too large for a recipe", name, help),)
        data = path.read_bytes()
    except FileNotFoundError:
        return None, (_whole_file("E0001", f"no recipe `{name}`", name, _similar(path)),)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return None, (_whole_file("E0002", f"can't read `{name}`: {reason}", name, "check its permissions"),)
    return decode(data, name)


def decode(data: bytes, name: str) -> tuple[Source | None, tuple[Diagnostic, ...]]:
    """Turn bytes into a source. A byte-order mark is dropped; anything but UTF-8 is an error with its place."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        help = f"save it as UTF-8, e.g. `iconv -f UTF-16 -t UTF-8 {name}`"
        return None, (_whole_file("E0003", "the recipe is in UTF-16, not in UTF-8", name, help),)
    data = data.removeprefix(b"\xef\xbb\xbf")
    nul = data.find(b"\0")
    if nul >= 0:
        source = Source(name, data[:nul].decode("utf-8", "replace") + "\0")
        label = Label(source.span(len(source.text) - 1, len(source.text)), "a NUL byte")
        help = "this is a binary file, or was damaged: is it a model?"
        return None, (Diagnostic("E0004", "error", "a recipe is text, and this is not", label, help=help),)
    try:
        return Source(name, data.decode("utf-8")), ()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        source = Source(name, before + data[error.start :].decode("utf-8", "replace"))
        label = Label(
            source.span(len(before), len(before) + 1),
            f"byte 0x{data[error.start]:02X} (`{bytes([data[error.start]]).decode('latin-1')}` in Latin-1)",
        )
        help = f"save it as UTF-8, e.g. `iconv -f LATIN1 -t UTF-8 {name}`"
        return None, (Diagnostic("E0003", "error", "the recipe is not in UTF-8", label, help=help),)


def _whole_file(code: str, message: str, name: str, help: str | None) -> Diagnostic:
    return Diagnostic(code, "error", message, path=name, help=help)


def _recipes_in(folder: Path) -> str:
    found = sorted(child.name for child in folder.glob("*.mopt"))[:5]
    return "it holds " + ", ".join(f"`{name}`" for name in found) if found else "it holds no `.mopt` file"


def _similar(path: Path) -> str:
    try:
        names = [child.name for child in path.parent.iterdir() if child.suffix == ".mopt"]
    except OSError:
        return f"there is no folder `{path.parent}` either"
    close = nearest(path.name, names)
    return f"did you mean `{close}`?" if close else "check the name and the folder you are in"
