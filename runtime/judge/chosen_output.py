"""Picking the output a metric or a loss is about, and pairing it with targets."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from mopt.runtime.contract import DataError

_Tensor = TypeVar("_Tensor")


def pick(outputs: Mapping[str, _Tensor], name: str) -> _Tensor:
    """Return the output of a name; of no name, the first one.

    Raises:
        DataError: there is none of that name.
    """
    if not name:
        return next(iter(outputs.values()))
    if name not in outputs:
        close = difflib.get_close_matches(name, outputs, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else ""
        told = ", ".join(f"`{key}`" for key in outputs)
        raise DataError(f"the model has no output `{name}`, it has {told}{hint}")
    return outputs[name]


def class_targets(metric: str, targets: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return class numbers; one-hot rows become the number of their largest element.

    Raises:
        DataError: the targets are no classes.
    """
    array = np.asarray(list(targets))
    if array.dtype.kind in "f" and array.ndim == 1 and np.array_equal(array, np.round(array)):
        array = array.astype(np.int64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2 and array.dtype.kind in "biuf":
        array = array.argmax(axis=1)
    if array.ndim != 1 or array.dtype.kind not in "biu":
        raise DataError(
            f"`{metric}` needs a class number as each sample's target; the first target is {_shown(targets[0])}"
        )
    return array.astype(np.int64)


def real_targets(metric: str, targets: Sequence[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Return targets stacked as f64 in the shape of an output (a missing axis of one is added).

    Raises:
        DataError: they are no numbers, or of another shape.
    """
    try:
        array = np.stack([np.asarray(target, dtype=np.float64) for target in targets])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"`{metric}` needs numbers of one shape as targets; the first target is {_shown(targets[0])} ({error})"
        ) from error
    if array.size == int(np.prod(shape)) and len(array) == shape[0]:
        return array.reshape(shape)
    raise DataError(
        f"`{metric}`: a target has the shape {list(array.shape[1:])}, the output {list(shape[1:])} for each sample"
    )


def _shown(value: Any) -> str:
    shape = np.shape(value) if not isinstance(value, (str, bytes)) else ()
    return f"an array of shape {list(shape)}" if shape else f"{value!r:.60}"
