"""Whether samples fit a model's inputs, and what to change in them so that they do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from mopt.runtime.contract import DataError, Sample
from mopt.runtime.dtypes import from_numpy, numpy_dtype

if TYPE_CHECKING:
    from mopt.ir.module import Module

_TARGET: Final = "target"
_POSITIONAL: Final = "0"
_KINDS: Final = {"f": "reals", "i": "integers", "u": "integers", "b": "booleans", "O": "text", "U": "text", "S": "text"}


class _Input(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str | None, ...]: ...


@dataclass(frozen=True)
class SampleFit:
    """A model's inputs, as samples must match them.

    A sample's array lacks the batch axis, which is the input's first. An array that has all of the input's axes
    is fed as it is, one sample at a time (a recurrent state, a sample rate).
    """

    inputs: tuple[_Input, ...]
    name: str

    @classmethod
    def of_module(cls, module: Module, name: str) -> SampleFit:
        """Take the inputs of a module; `name` is the split's, for messages."""
        return cls(tuple(module.inputs), name)

    def apply(self, sample: Sample, number: int) -> dict[str, Any]:
        """Return a sample's arrays under the model's names and of its types, other entries but `target` left out.

        Raises:
            DataError: it does not fit.
        """
        given = self._named(sample, number)
        fitted: dict[str, Any] = {port.name: self._array(port, given, number) for port in self.inputs}
        if _TARGET in sample:
            fitted[_TARGET] = sample[_TARGET]
        return fitted

    def batch_size(self, wanted: int) -> int:
        """Return the batch size to use: the model's own where its batch is fixed, 1 where its inputs disagree."""
        leading = {port.shape[0] if port.shape else 1 for port in self.inputs}
        fixed = {size for size in leading if isinstance(size, int) and size > 0}
        if not fixed:
            return wanted
        return fixed.pop() if len(leading) == len(fixed) == 1 else 1

    def _named(self, sample: Sample, number: int) -> Sample:
        if _POSITIONAL in sample and _POSITIONAL not in {port.name for port in self.inputs}:
            if len(self.inputs) != 1:
                raise DataError(
                    f"sample {number} of `{self.name}` is a pair (input, target), but the model has the inputs "
                    f"{self._listed()}; give a dict of arrays by those names"
                )
            return {**sample, self.inputs[0].name: sample[_POSITIONAL]}
        return sample

    def _array(self, port: _Input, sample: Sample, number: int) -> np.ndarray[Any, Any]:
        if port.name not in sample:
            raise DataError(self._missing(port, sample, number))
        array = np.asarray(sample[port.name])
        expected = f"the model's input `{port.name}` is {_written(port)}"
        if not _fits(array.shape, port.shape[1:]) and not _fits(array.shape, port.shape):
            raise DataError(
                f"sample {number} of `{self.name}`: `{port.name}` has the shape {list(array.shape)}, but {expected}; "
                f"a sample has the shape {_dims(port.shape[1:])}, without the batch axis{_advice(array.shape, port)}"
            )
        wanted = numpy_dtype(port.dtype)
        if not _castable(array.dtype, wanted):
            raise DataError(
                f"sample {number} of `{self.name}`: `{port.name}` is {from_numpy(array.dtype)} "
                f"({_KINDS.get(array.dtype.kind, array.dtype.name)}), but {expected}; convert it where the data is "
                f"made: `.astype({wanted.name!r})`{_scaling(array.dtype, wanted)}"
            )
        return array.astype(wanted, copy=False)

    def _missing(self, port: _Input, sample: Sample, number: int) -> str:
        names = [key for key in sample if key != _TARGET]
        close = difflib.get_close_matches(port.name, names, n=1)
        mend = f"rename `{close[0]}`" if close else "name the arrays of a sample after the model's inputs"
        has = ", ".join(f"`{name}`" for name in names) or "no array"
        return (
            f"sample {number} of `{self.name}` has no `{port.name}`; it has {has}, and the model's inputs are "
            f"{self._listed()}; {mend}"
        )

    def _listed(self) -> str:
        return ", ".join(f"`{port.name}`: {_written(port)}" for port in self.inputs)


def feeds_of(batch: Sample, inputs: Sequence[_Input]) -> dict[str, np.ndarray[Any, Any]]:
    """Take a model's inputs out of a batch of fitted samples; arrays that were whole lose the added batch axis."""
    feeds = {}
    for port in inputs:
        array = batch[port.name]
        whole = array.ndim == len(port.shape) + 1 and len(array) == 1
        feeds[port.name] = np.asarray(array[0]) if whole else array
    return feeds


def _fits(shape: Sequence[int], wanted: Sequence[int | str | None]) -> bool:
    return len(shape) == len(wanted) and all(
        not isinstance(want, int) or want < 0 or have == want for have, want in zip(shape, wanted, strict=True)
    )


def _castable(given: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Widths may differ, kinds may not: integers where reals are wanted are mostly pixels somebody forgot to scale."""
    if wanted.kind in "iu":
        return given.kind in "iu"
    if wanted.kind == "O":
        return given.kind in "OUS"
    if given.kind == wanted.kind:
        return True
    return wanted.name == "bfloat16" and given.kind == "f"


def _written(port: _Input) -> str:
    return f"{port.dtype}{_dims(port.shape)}"


def _dims(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _advice(shape: tuple[int, ...], port: _Input) -> str:
    wanted = port.shape[1:]
    if len(shape) == 3 and len(wanted) == 3:
        if _fits((shape[2], shape[0], shape[1]), wanted):
            return "; channels come first there: `.transpose(2, 0, 1)`"
        if _fits((shape[1], shape[2], shape[0]), wanted):
            return "; channels come last there: `.transpose(1, 2, 0)`"
    if len(shape) == len(wanted) - 1:
        if _fits((1, *shape), wanted):
            return "; an axis of one is missing: `[None]`"
        if _fits((*shape, 1), wanted):
            return "; an axis of one is missing: `[..., None]`"
    return ""


def _scaling(given: np.dtype[Any], wanted: np.dtype[Any]) -> str:
    return (
        " (and scale pixels as the model was trained, `/ 255` say)" if given.kind in "iu" and wanted.kind == "f" else ""
    )
