"""Clustered weights under a quantiser: written out before it looks, packed again once they are bytes.

A weight of K different values keeps at most K in each channel of an integer grid, zeros included. So what `cluster.*`
stored as indices is stored as indices again after quantisation, into codebooks of bytes, wherever that is smaller than
the bytes themselves: up to 16 values a channel. A runtime folds the look-ups when it loads the model, and then finds
the integer weights that it has kernels for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any, Final, TypeVar

import numpy as np
import onnx_ir as ir
from mopt.analysis.codebook import codebooks
from mopt.analysis.codebook_expand import expand
from mopt.ir import Module
from mopt.ir.walk import nested_graphs
from mopt.ir.weights import Weight
from mopt.passes.cluster.rows import distinct
from mopt.passes.cluster.storage import Writer, smallest_rows, smallest_storage
from mopt.passes.contract import Context, Note, PassResult
from numpy.typing import NDArray

_FEW: Final = 16
"""Values that fit into four bits: more would need the byte that they have."""
_WORTH: Final = 0.8
"""Bytes are packed where that takes no more than this share of them."""

Options = TypeVar("Options")
Run = Callable[[Module, Options, Context], PassResult]


def sees_codebooks(by: str) -> Callable[[Run[Options]], Run[Options]]:
    """Let a quantiser see clustered weights as weights. To decorate its `quantize(module, options, context)` with.

    Args:
        by: the pass, for the provenance of what is put into the graph.
    """

    def decorate(run: Run[Options]) -> Run[Options]:
        @wraps(run)
        def around(module: Module, options: Options, context: Context) -> PassResult:
            sizes = {book.size for book in codebooks(module)}
            opened = expand(module)
            result = run(module, options, context)
            if not opened:
                return result
            packed = pack(result.module, sizes, by)
            says = f"{len(opened)} clustered weights were written out to be quantised"
            says += f"; {packed} are stored as codebooks of bytes" if packed else ""
            return replace(result, modified=True, notes=(*result.notes, Note(says)))

        return around

    return decorate


def pack(module: Module, sizes: set[int], by: str) -> int:
    """Store quantised weights of so many elements as codebooks where that is smaller, in place; return how many."""
    graphs, writer, count = set(nested_graphs(module.graph)), Writer(module, by), 0
    for weight in list(module.weights()):
        if weight.size not in sizes or weight.tensor.dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
            continue
        if weight.graph not in graphs or weight.value.is_graph_input() or weight.value.is_graph_output():
            continue
        count += _packed(weight, weight.numpy(), writer, module.opset)
    if count:
        module.touch()
    return count


def _packed(weight: Weight, array: NDArray[Any], writer: Writer, opset: int) -> bool:
    values, places = np.unique(array, return_inverse=True)
    if values.size <= _FEW:
        storage = smallest_storage(array.size, values.size, 1, opset)
        if storage.nbytes <= _WORTH * array.size:
            writer.store(weight, values, places.reshape(array.shape).astype(np.uint8), storage)
            return True
    best: tuple[int, int, int] | None = None
    for axis, count in _channels(array.shape):
        most = int(distinct(np.moveaxis(array, axis, 0).reshape(count, -1)).max(initial=0))
        nbytes = smallest_rows(count, array.size, most, 1, opset).nbytes
        if most <= _FEW and nbytes <= _WORTH * array.size and (best is None or nbytes < best[0]):
            best = nbytes, axis, count
    if best is None:
        return False
    _, axis, count = best
    rows = np.moveaxis(array, axis, 0).reshape(count, -1)
    books, indices = _books(rows)
    writer.store_rows(weight, books, indices, axis, smallest_rows(books.shape[0], array.size, books.shape[1], 1, opset))
    return True


def _channels(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield what may be rows with values of their own: an axis that is moved to the front, and how many rows then."""
    for axis in range(len(shape)) if len(shape) > 1 else ():
        yield axis, shape[axis]
        if len(shape) == 3:  # gates of two directions, [D, G, I] or [D, I, G]
            yield axis, shape[axis] * (shape[1] if axis == 0 else shape[0])


def _books(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return the values of each row, ascending, and the index of each element among them."""
    order = np.argsort(rows, axis=1, kind="stable")
    ascending = np.take_along_axis(rows, order, axis=1)
    ranks = np.zeros(rows.shape, np.uint8)
    ranks[:, 1:] = np.cumsum(ascending[:, 1:] != ascending[:, :-1], axis=1)
    books = np.repeat(ascending[:, -1:], int(ranks.max(initial=0)) + 1, axis=1)
    np.put_along_axis(books, ranks.astype(np.int64), ascending, axis=1)
    indices = np.empty_like(ranks)
    np.put_along_axis(indices, order, ranks, axis=1)
    return books, indices
