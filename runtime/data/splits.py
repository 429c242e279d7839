"""Splits: whatever a data set is made of, read as samples keyed by input name, sliced, fitted to a model, batched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from mopt.runtime.contract import DataError, Sample, Split
from mopt.runtime.data.batching import batches
from mopt.runtime.data.sample_fit import SampleFit
from mopt.runtime.data.sequences import samples_of
from mopt.runtime.user_code import described, guarded
from mopt.values import PythonRef

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mopt.ir.module import Module

TARGET: Final = "target"
POSITIONAL: Final = "0"
"""The key of a sample's input where the data set names none (`(x, y)` pairs); fitting gives it the model's name."""


class Samples:
    """A split over something iterable.

    Args:
        items: samples: dicts of arrays, or `(x, y)` pairs for a model with one input. Iterated anew each time.
        count: how many there are.
        name: what to call it in messages (`captcha.test`).
        author: whose code gives the samples, where it is a recipe's Python.
        pad: batches of samples of unequal shape are padded with zeros at the end of each axis, not split up.
    """

    def __init__(
        self, items: Iterable[Any], count: int, name: str, author: PythonRef | str = "", *, pad: bool = False
    ) -> None:
        self._items, self._count, self.name, self._author, self.pad = items, count, name, author, pad

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        source = guarded(self._items, self._author) if self._author else iter(self._items)
        for number, item in enumerate(source):
            if number >= self._count:
                return
            yield keyed(item, number, self.name)

    def batches(self, size: int) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        """Yield samples stacked along a new first axis, in their order; see `mopt.runtime.data.batching`."""
        return batches(iter(self), size, pad=self.pad, name=self.name)


class Slice:
    """Some consecutive samples of a split."""

    def __init__(self, whole: Split, start: int, stop: int) -> None:
        self._whole, self._start, self._stop = whole, start, stop
        self.name = f"{split_name(whole)}[{start}:{stop}]"
        self.pad = bool(getattr(whole, "pad", False))

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(self._whole):
            if number >= self._stop:
                return
            if number >= self._start:
                yield sample

    def batches(self, size: int) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        """Yield samples stacked along a new first axis."""
        return batches(iter(self), size, pad=self.pad, name=self.name)


class Fitted:
    """A split whose samples are checked against a model's inputs, renamed and cast to them, one by one."""

    def __init__(self, split: Split, fit: SampleFit) -> None:
        self._split, self._fit = split, fit
        self.name, self.pad = split_name(split), bool(getattr(split, "pad", False))

    def __len__(self) -> int:
        return len(self._split)

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(self._split):
            yield self._fit.apply(sample, number)

    def batches(self, size: int) -> Iterator[Mapping[str, np.ndarray[Any, Any]]]:
        """Yield samples stacked along a new first axis, at most as many as the model's fixed batch size allows."""
        return batches(iter(self), self._fit.batch_size(size), pad=self.pad, name=self.name)


def as_split(given: Any, name: str, author: PythonRef | str = "", *, pad: bool = False) -> Split:
    """Read what a data set gives for a split: a sequence or a re-iterable of samples, columns of arrays, a torch
    `Dataset`, a `tf.data.Dataset`, a Hugging Face dataset, or something that is a split already.

    It may be empty: that is nobody's concern before it is used (`sliced`, `fit_to`).

    Raises:
        DataError: it is none of these, or can be iterated only once.
    """
    if hasattr(given, "batches") and hasattr(given, "__len__") and hasattr(given, "__iter__"):
        split: Split = given
    else:
        items, count = samples_of(given, name, author)
        split = Samples(items, count, name, author, pad=pad)
    return split


def keyed(item: Any, number: int, name: str) -> dict[str, Any]:
    """Turn one sample into a dict of arrays by input name, `target` beside them.

    A tuple is `(x, y)`, or `(x,)`; `x` may itself be a dict of inputs.

    Raises:
        DataError: the sample is of another kind.
    """
    if isinstance(item, Mapping):
        sample = dict(item)
    elif isinstance(item, (tuple, list)) and 1 <= len(item) <= 2:
        sample = dict(item[0]) if isinstance(item[0], Mapping) else {POSITIONAL: item[0]}
        if len(item) == 2:
            sample[TARGET] = item[1]
    elif isinstance(item, np.ndarray):
        sample = {POSITIONAL: item}
    else:
        kind = described(item) + (f" of {len(item)}" if isinstance(item, (tuple, list)) else "")
        raise DataError(
            f"sample {number} of `{name}` is {kind}; a sample is a dict of arrays by input name "
            "(with `target` beside them), or a pair (input, target)"
        )
    return {str(key): value if key == TARGET else as_array(value) for key, value in sample.items()}


def as_array(value: Any) -> np.ndarray[Any, Any]:
    """Return a numpy array of an array-like, a torch or a TensorFlow tensor (moved to the CPU, without gradient)."""
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def sliced(split: Split, start: int | None, stop: int | None) -> Split:
    """Return `split[start:stop]` (Python's rules, step 1); the split itself where both are None.

    Raises:
        DataError: nothing is left.
    """
    if start is None and stop is None:
        if len(split) == 0:
            raise DataError(f"`{split_name(split)}` is empty; a split needs at least one sample")
        return split
    first, last, _ = slice(start, stop).indices(len(split))
    if first >= last:
        text = f"[{'' if start is None else start}:{'' if stop is None else stop}]"
        raise DataError(f"`{split_name(split)}{text}` is empty; the split has {len(split)} samples")
    return Slice(split, first, last)


def validate_split(split: Split, module: Module) -> Split:
    """Check a split against a model and return it fitted: use the result, whose samples carry the model's names.

    Every sample is checked when it is read, the first one at once. Pairs get the name of the only input, and
    reals and integers are cast to the input's width.

    Raises:
        DataError: names, shapes or types do not fit; it says which sample, what the model expects, what to do.
    """
    return fit_to(split, SampleFit.of_module(module, split_name(split)))


def fit_to(split: Split, fit: SampleFit) -> Split:
    """Return a split fitted to inputs, having checked its first sample; one that is fitted already stays as it is.

    Raises:
        DataError: it does not fit.
    """
    if isinstance(split, Fitted):
        return split
    if len(split) == 0:
        raise DataError(f"`{split_name(split)}` is empty; a split needs at least one sample")
    fitted = Fitted(split, fit)
    if next(iter(fitted), None) is None:
        raise DataError(f"`{split_name(split)}` says that it has {len(split)} samples, but gives none")
    return fitted


def split_name(split: Split) -> str:
    """Return what to call a split in messages."""
    return str(getattr(split, "name", "") or "the data")
