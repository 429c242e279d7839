"""The data sets of recipes: the author's Python, an `.npz` file, a folder of images, or random arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.plugin import option, register
from mopt.runtime.contract import DataError, DataSource
from mopt.values import Location, LocationError, PythonRef, Ratio, TensorType

if TYPE_CHECKING:
    from pathlib import Path

    from mopt.runtime.contract import Split


@register("python")
@dataclass(frozen=True)
class PythonData(DataSource):
    """A callable of the recipe's Python that returns a mapping of split names to splits.

    A split is a sequence or a re-iterable of samples (dicts of arrays by input name, `target` beside them, or
    pairs), columns of arrays, a torch `Dataset`, a `tf.data.Dataset` or a Hugging Face dataset.
    """

    ref: PythonRef = option(help='`"file.py:name"`')
    seed: int | None = option(None, help="handed to the callable; default: the recipe's seed, where it takes one")
    args: Mapping[str, object] = option(factory=dict, help="more arguments of the callable")
    pad: bool = option(False, help="pad samples of unequal shape to make a batch, with zeros")

    def splits(self, seed: int) -> Mapping[str, Split]:
        """Call the author's function."""
        from mopt.runtime.data.splits import as_split
        from mopt.runtime.user_code import call, described, load, takes

        function = load(self.ref)
        arguments = dict(self.args)
        if self.seed is not None:
            arguments["seed"] = self.seed
        elif "seed" not in arguments and takes(function, "seed"):
            arguments["seed"] = seed
        given = call(self.ref, function, arguments)
        if not isinstance(given, Mapping):
            raise DataError(
                f"`{self.ref}` returned {described(given)}; it must return a mapping of split names to splits, "
                'for example `{"train": …, "test": …}`'
            )
        if not given:
            raise DataError(f"`{self.ref}` returned no splits")
        return {
            str(name): as_split(split, f"{self.ref.attribute}.{name}", self.ref, pad=self.pad)
            for name, split in given.items()
        }


@register("npz")
@dataclass(frozen=True)
class NpzData(DataSource):
    """An `.npz` file whose arrays count samples along their first axis.

    Arrays called `SPLIT.NAME`, `SPLIT/NAME` or (Keras) `NAME_SPLIT` belong to that split; others form the split
    `all`, which `splits` divides in order. `y`, `label` and `labels` are taken for `target`; a single other array
    called `x` fits a model with one input whatever its name.
    """

    path: Location = option(help="the file")
    divide: Mapping[str, Ratio] = option(factory=dict, help="shares of the split `all`, in order: `{train: 80%}`")

    def splits(self, seed: int) -> Mapping[str, Split]:
        """Read the file."""
        del seed
        from mopt.runtime.data.files import npz_splits

        return npz_splits(_resolved(self.path), str(self.path), self.divide)


@register("images")
@dataclass(frozen=True)
class ImageFolder(DataSource):
    """A folder of images: `SPLIT/CLASS/file`, `CLASS/file` or plain files; classes are numbered by sorted name.

    A text file of lines `file<TAB>text` (`labels.txt` in the folder, or `labels`) gives targets instead.
    """

    path: Location = option(help="the folder")
    size: tuple[int, ...] = option((), help="resize to [height, width]; empty: as they are")
    input: str = option("", help="the model's input; default: its only one")
    mode: Literal["rgb", "bgr", "gray"] = option("rgb", help="channels")
    layout: Literal["chw", "hwc"] = option("chw", help="order of the axes")
    scale: float = option(1 / 255, help="pixels are multiplied by it, as reals in float32")
    mean: tuple[float, ...] = option((), help="subtracted after scaling, one for each channel (or for all)")
    std: tuple[float, ...] = option((), help="divided by after that")
    labels: Location | None = option(None, help="a text file of lines `file<TAB>text`")
    pad: bool = option(False, help="pad images of unequal size to make a batch, with zeros")

    def splits(self, seed: int) -> Mapping[str, Split]:
        """List the folder; images are read when they are asked for."""
        del seed
        if len(self.size) not in (0, 2):
            raise DataError(f"`size` is {list(self.size)}; it takes [height, width]")
        from mopt.runtime.data.files import image_splits

        return image_splits(self, _resolved(self.path), None if self.labels is None else _resolved(self.labels))


@register("random")
@dataclass(frozen=True)
class RandomData(DataSource):
    """Random arrays, for trying a pipeline without data. Declared synthetic: no metric over it means anything."""

    synthetic: ClassVar[bool] = True

    inputs: Mapping[str, TensorType] = option(help="`{image: f32[N, 3, 224, 224]}`; the first axis is the batch")
    samples: int = option(64, minimum=1, help="in each of the splits `train`, `calib` and `test`")
    classes: int = option(0, minimum=0, help="targets are integers below it; 0: no targets")
    bind: Mapping[str, int] = option(factory=dict, help="sizes of the other dynamic dimensions; default 16")

    def splits(self, seed: int) -> Mapping[str, Split]:
        """Draw the arrays."""
        from mopt.runtime.data.random_arrays import random_splits

        return random_splits(self, seed)


def _resolved(location: Location) -> Path:
    try:
        return location.resolve()
    except LocationError as error:
        raise DataError(str(error)) from error
