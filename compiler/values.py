"""The values a recipe can hold, once checked: what a pass, a source or a target receives as its options.

This module is the bottom layer: it imports nothing but the standard library, so that `mopt check` stays fast.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DTYPES = (
    "f16", "f32", "f64", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool", "str",
)  # fmt: skip
"""The element types a tensor type may name."""


class LocationError(ValueError):
    """A path of a recipe leads nowhere; the message says what was looked for and what to do."""


class Ratio(float):
    """A share of a whole, written `30%` in a recipe and held as 0.3."""

    def __repr__(self) -> str:
        return f"{float(self) * 100:.12g}%"

    __str__ = __repr__


@dataclass(frozen=True)
class NofM:
    """N kept of every M, written `2:4`."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


class Duration(float):
    """Seconds; written `10ms`, `2s`, `500us`, `1min`, `1h` in a recipe."""

    def __repr__(self) -> str:
        for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
            if float(self) >= scale:
                return f"{float(self) / scale:.12g}{unit}"
        return f"{float(self) / 1e-9:.12g}ns"

    __str__ = __repr__


class ByteSize(int):
    """Bytes; written `4MiB`, `10KB`, `1GiB` in a recipe."""

    def __repr__(self) -> str:
        for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if int(self) >= scale and int(self) % scale == 0:
                return f"{int(self) // scale}{unit}"
        return f"{int(self)}B"

    __str__ = __repr__


@dataclass(frozen=True)
class TensorType:
    """An element type and dimensions; a dimension that is a name is dynamic. Written `f32[N, 3, 224, 224]`."""

    dtype: str
    dims: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(dim) for dim in self.dims)}]"


@dataclass(frozen=True)
class DataRef:
    """A declared data set, one split of it, or a slice of a split: `captcha.calib[:256]`."""

    name: str
    split: str | None = None
    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        text = self.name if self.split is None else f"{self.name}.{self.split}"
        if self.start is None and self.stop is None:
            return text
        return f"{text}[{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}]"


@dataclass(frozen=True)
class ModelRef:
    """A declared model or an earlier pipeline, by name (a teacher, say)."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class LossRef:
    """A declared or built-in loss, by name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class MetricRef:
    """A declared or built-in metric, by name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Location:
    """A file or folder named by a recipe: relative to the recipe, `pkg:PACKAGE/path` or `hf:OWNER/NAME`.

    `text` is what the recipe says; `base` is the recipe's own folder.
    """

    text: str
    base: str = ""

    def __str__(self) -> str:
        return self.text

    def resolve(self) -> Path:
        """Return the path on disk.

        Raises:
            LocationError: the package is not installed, or nothing is there.
        """
        if self.text.startswith("pkg:"):
            path = _package_path(self.text)
        elif self.text.startswith("hf:"):
            path = _hub_path(self.text)
        else:
            try:
                path = Path(self.base) / Path(self.text).expanduser()
            except RuntimeError as error:  # `~nobody/model.onnx`
                raise LocationError(f"`{self.text}`: {error}") from error
        if not path.exists():
            raise LocationError(f"`{self.text}`: nothing at {path}")
        return path


@dataclass(frozen=True)
class PythonRef:
    """A name inside a Python file of the recipe's author: `data.py:Captcha`."""

    file: Location
    attribute: str

    def __str__(self) -> str:
        return f"{self.file}:{self.attribute}"


Globs = tuple[str, ...]
"""Shell-style patterns over source layer names; a recipe may also give one string."""


def _package_path(text: str) -> Path:
    package, _, inner = text.removeprefix("pkg:").partition("/")
    # Asking for `a.b` would import `a`: look the top package up, and go on by folders.
    package, *deeper = package.split(".")
    inner = "/".join([*deeper, inner])
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    roots: Sequence[str] = (spec.submodule_search_locations or ()) if spec else ()
    if spec is not None and not roots and spec.origin:
        roots = (str(Path(spec.origin).parent),)
    if not roots:
        raise LocationError(
            f"`{text}`: no Python package `{package}` is installed here; install it with pip and compile again"
        )
    for root in roots:
        if (Path(root) / inner).exists():
            return Path(root) / inner
    raise LocationError(f"`{text}`: package `{package}` is installed, but has no file `{inner}`")


def _hub_path(text: str) -> Path:
    import os

    name = text.removeprefix("hf:")
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    root = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{name.replace('/', '--')}"
    reference = root / "refs" / "main"
    if not reference.is_file():
        raise LocationError(f"`{text}` is not in the local Hugging Face cache ({root})")
    return root / "snapshots" / reference.read_text(encoding="utf-8").strip()
