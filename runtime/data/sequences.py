"""Recognising data sets of other libraries by what they offer, importing none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
from mopt.runtime.contract import DataError
from mopt.runtime.user_code import described, running
from mopt.values import PythonRef


def samples_of(given: Any, name: str, author: PythonRef | str = "") -> tuple[Iterable[Any], int]:
    """Return a re-iterable of samples and their number.

    Raises:
        DataError: it is nothing that samples can be read from twice.
    """
    if given is None or isinstance(given, (str, bytes, int, float)):
        raise DataError(
            f"`{name}` is {described(given)}; a split is a sequence of samples, each a dict of arrays by input name"
        )
    if hasattr(given, "batch_sampler") and hasattr(given, "dataset"):
        raise DataError(f"`{name}` is a DataLoader, which gives batches; give its `.dataset` instead")
    if hasattr(given, "as_numpy_iterator"):
        return _counted(_NumpyIterator(given), name, author)
    if hasattr(given, "with_format") and hasattr(given, "column_names"):
        given = given.with_format("numpy")
        return _Indexed(given), len(given)
    if isinstance(given, Mapping):
        return _columns(given, name)
    if isinstance(given, tuple) and len(given) == 2 and all(_is_column(part) for part in given):
        return _columns({"0": given[0], "target": given[1]}, name)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__"):
        with running(author or name, "when asked for its length"):
            return _Indexed(given), len(given)
    if isinstance(given, Iterator):
        raise DataError(
            f"`{name}` is {described(given)}, which can be read only once; return a list, or an object whose "
            "`__iter__` starts anew"
        )
    if isinstance(given, Iterable):
        return _counted(given, name, author)
    raise DataError(
        f"`{name}` is {described(given)}; a split is a sequence or a re-iterable of samples, "
        "each a dict of arrays by input name"
    )


class _Indexed:
    """A data set that is asked for by number; those of torch have no iteration that ends by itself."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self._given)):
            yield self._given[number]


class _NumpyIterator:
    """A `tf.data.Dataset`."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def __iter__(self) -> Iterator[Any]:
        yield from self._given.as_numpy_iterator()


class _Columns:
    """Arrays by name whose first axis counts the samples (an `.npz`)."""

    def __init__(self, columns: Mapping[str, Any], count: int) -> None:
        self._columns, self._count = columns, count

    def __iter__(self) -> Iterator[Any]:
        for number in range(self._count):
            yield {key: column[number] for key, column in self._columns.items()}


def _columns(given: Mapping[Any, Any], name: str) -> tuple[Iterable[Any], int]:
    columns = {str(key): given[key] for key in given}
    for key, column in columns.items():
        if not hasattr(column, "__getitem__") or not hasattr(column, "__len__") or np.ndim(column) == 0:
            raise DataError(
                f"`{name}` maps `{key}` to {described(column)}; columns are arrays whose first axis counts samples"
            )
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"`{key}` {length}" for key, length in lengths.items())
        raise DataError(f"`{name}`: the columns differ in length: {told}")
    return _Columns(columns, next(iter(lengths.values()), 0)), next(iter(lengths.values()), 0)


def _is_column(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.ndim >= 1


def _counted(items: Iterable[Any], name: str, author: PythonRef | str) -> tuple[Iterable[Any], int]:
    with running(author or name, "while its samples were counted"):
        if isinstance(items, Sized):
            return items, len(items)
        return items, sum(1 for _ in items)
