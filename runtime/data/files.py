"""Splits read from files: `.npz` arrays and folders of images."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from mopt.runtime.contract import DataError, Split
from mopt.runtime.data.splits import POSITIONAL, TARGET, Samples, as_split, sliced

if TYPE_CHECKING:
    from mopt.runtime.data.sources import ImageFolder
    from mopt.values import Ratio

_SPLITS: Final = ("train", "valid", "val", "calib", "test")
_TARGETS: Final = frozenset({"y", "label", "labels", "target", "targets"})
_IMAGES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_KERAS: Final = re.compile(rf"(?P<name>.+)_(?P<split>{'|'.join(_SPLITS)})")


def npz_splits(path: Path, shown: str, divide: Mapping[str, Ratio]) -> dict[str, Split]:
    """Read the arrays of an `.npz`; see `NpzData` for their names.

    Raises:
        DataError: it is no such file, holds pickled objects, or its arrays do not belong together.
    """
    groups: dict[str, dict[str, Any]] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                split, name = _split_of(key)
                groups.setdefault(split, {})[name] = archive[key]
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        hint = "; it holds pickled objects, save plain arrays" if "pickle" in str(error) else ""
        raise DataError(f"`{shown}` can't be read as `.npz`: {error}{hint}") from error
    if not groups:
        raise DataError(f"`{shown}` holds no arrays")
    splits = {split: as_split(_columns(arrays), f"{path.stem}.{split}") for split, arrays in groups.items()}
    if divide:
        if "all" not in splits:
            raise DataError(f"`{shown}` has the splits {', '.join(splits)} already; leave `divide` out")
        splits |= _divided(splits["all"], divide)
    return splits


def image_splits(source: ImageFolder, folder: Path, labels: Path | None) -> dict[str, Split]:
    """List a folder of images; see `ImageFolder` for how it is laid out.

    Raises:
        DataError: Pillow is missing, the folder holds no image, or the labels name one that is not there.
    """
    import importlib.util

    if importlib.util.find_spec("PIL") is None:
        raise DataError("`images` needs Pillow: pip install 'mopt[images]'")
    roots = {root.name: root for root in sorted(folder.iterdir()) if root.is_dir() and root.name in _SPLITS}
    splits: dict[str, Split] = {}
    for name, root in (roots or {"all": folder}).items():
        listing = labels or (root / "labels.txt" if (root / "labels.txt").is_file() else None)
        found = _labelled(root, listing) if listing else _classed(root)
        if not found:
            raise DataError(f"`{source.path}`: no image in {root.name}/ ({', '.join(sorted(_IMAGES))})")
        splits[name] = Samples(_Images(source, tuple(found)), len(found), f"{folder.name}.{name}", pad=source.pad)
    return splits


@dataclass(frozen=True)
class _Images:
    source: ImageFolder
    files: Sequence[tuple[Path, Any]]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for path, target in self.files:
            sample = {self.source.input or POSITIONAL: read_image(path, self.source)}
            yield sample if target is None else {**sample, TARGET: target}


def read_image(path: Path, how: ImageFolder) -> np.ndarray[Any, Any]:
    """Return an image as f32[channels, height, width] or f32[height, width, channels], scaled and normalised.

    Raises:
        DataError: the file is no image that Pillow reads.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if how.mode == "gray" else "RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path.name} can't be read as an image: {error}") from error
    if how.size:
        image = image.resize((how.size[1], how.size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    pixels = pixels[..., ::-1] if how.mode == "bgr" else pixels
    pixels = pixels * np.float32(how.scale)
    for values, operation in ((how.mean, np.subtract), (how.std, np.divide)):
        if len(values) not in (0, 1, pixels.shape[-1]):
            raise DataError(f"{len(values)} values of `mean` or `std` for {pixels.shape[-1]} channels")
        if values:
            pixels = operation(pixels, np.asarray(values, dtype=np.float32))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if how.layout == "chw" else pixels)


def _split_of(key: str) -> tuple[str, str]:
    for separator in ("/", "."):
        split, found, name = key.partition(separator)
        if found and name:
            return split, name
    keras = _KERAS.fullmatch(key)
    return (keras["split"], keras["name"]) if keras else ("all", key)


def _columns(arrays: Mapping[str, Any]) -> dict[str, Any]:
    named = {TARGET if name in _TARGETS else name: array for name, array in arrays.items()}
    inputs = [name for name in named if name != TARGET]
    if inputs == ["x"]:
        named[POSITIONAL] = named.pop("x")
    return named


def _divided(whole: Split, divide: Mapping[str, Ratio]) -> dict[str, Split]:
    if sum(divide.values()) > 1 + 1e-9:
        raise DataError(f"`divide` hands out {sum(divide.values()):.0%} of the samples")
    parts, start = {}, 0.0
    for name, share in divide.items():
        first, last = round(start * len(whole)), round((start + share) * len(whole))
        parts[name] = sliced(whole, first, last)
        start += share
    return parts


def _classed(root: Path) -> list[tuple[Path, Any]]:
    classes = [path for path in sorted(root.iterdir()) if path.is_dir() and _pictures(path)]
    if not classes:
        return [(path, None) for path in _pictures(root)]
    return [(path, number) for number, folder in enumerate(classes) for path in _pictures(folder)]


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in _IMAGES)


def _labelled(root: Path, listing: Path) -> list[tuple[Path, Any]]:
    found = []
    for number, line in enumerate(listing.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, separator, text = line.partition("\t")
        if not separator:
            raise DataError(f"{listing.name}:{number}: no tab between file and label")
        if not (root / name).is_file():
            raise DataError(f"{listing.name}:{number}: no file `{name}` in {root.name}/")
        found.append((root / name, text))
    return found
