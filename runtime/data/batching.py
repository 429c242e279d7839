"""Stacking samples into batches: of one shape each, or padded; always in the samples' order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from mopt.runtime.contract import DataError, Sample

Batch = Mapping[str, np.ndarray[Any, Any]]

_TARGET: Final = "target"


def batches(samples: Iterator[Sample], size: int, *, pad: bool, name: str) -> Iterator[Batch]:
    """Yield batches of at most `size` samples, stacked along a new first axis.

    A batch ends early where the next sample has another shape; with `pad`, shapes are made equal by zeros at the
    end of each axis instead. Targets are stacked where they are numbers of equal shape, else they come as an
    array of objects, one a sample.

    Raises:
        DataError: samples with different inputs, or with another number of axes while padding.
        ValueError: `size` is less than 1.
    """
    if size < 1:
        raise ValueError("a batch has at least one sample")
    waiting: list[Sample] = []
    for number, sample in enumerate(samples):
        if waiting and sample.keys() != waiting[0].keys():
            raise DataError(
                f"sample {number} of `{name}` has {_names(sample)}, the samples before it {_names(waiting[0])}; "
                "all samples of a split need the same names"
            )
        if waiting and not pad and _shapes(sample) != _shapes(waiting[0]):
            yield _stacked(waiting, name, pad=False)
            waiting = []
        waiting.append(sample)
        if len(waiting) == size:
            yield _stacked(waiting, name, pad=pad)
            waiting = []
    if waiting:
        yield _stacked(waiting, name, pad=pad)


def _stacked(samples: Sequence[Sample], name: str, *, pad: bool) -> Batch:
    batch = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key == _TARGET:
            batch[key] = _targets(values)
            continue
        arrays = [np.asarray(value) for value in values]
        if pad and len({array.shape for array in arrays}) > 1:
            arrays = _padded(arrays, key, name)
        batch[key] = np.stack(arrays)
    return batch


def _padded(arrays: Sequence[np.ndarray[Any, Any]], key: str, name: str) -> list[np.ndarray[Any, Any]]:
    if len({array.ndim for array in arrays}) > 1:
        shapes = sorted({array.shape for array in arrays})
        raise DataError(f"`{name}`: `{key}` has the shapes {shapes[0]} and {shapes[-1]}; padding can't make them equal")
    largest = [max(sizes) for sizes in zip(*(array.shape for array in arrays), strict=True)]
    return [
        np.pad(array, [(0, full - have) for have, full in zip(array.shape, largest, strict=True)]) for array in arrays
    ]


def _targets(values: Sequence[Any]) -> np.ndarray[Any, Any]:
    plain = [value.detach().cpu().numpy() if hasattr(value, "detach") else value for value in values]
    if not any(isinstance(value, (str, bytes, Mapping)) or value is None for value in plain):
        arrays = [np.asarray(value) for value in plain]
        if len({array.shape for array in arrays}) == 1 and arrays[0].dtype.kind in "biuf":
            return np.stack(arrays)
    kept = np.empty(len(plain), dtype=object)
    for at, value in enumerate(plain):
        kept[at] = value
    return kept


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {key: np.shape(value) for key, value in sample.items() if key != _TARGET}


def _names(sample: Sample) -> str:
    return ", ".join(f"`{key}`" for key in sample)
