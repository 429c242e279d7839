"""Weights stored as codebooks and indices into them: how the graph spells them, and what they stand for.

Three spellings, all of operators that every runtime has and folds when it loads the model:

    w = Gather(codebook [K], Cast(indices [shape of w]))                one index an element, 8 or 4 bits each
    w = Reshape(Gather(table [256, m], Cast(bytes [size / m])), shape)  m indices a byte, the table says all m values
    w = Transpose(Reshape(Cast(GatherElements(codebooks [R, K], Cast(indices [R, S]), axis=1)), shape))

The last one has a codebook for each row of the weight. Its indices may lie two in a byte, behind a Gather from a table
of the two halves of each byte. Its codebooks may be kept in half precision, which is what the outer Cast is for; that,
Reshape and Transpose are there where they do something.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.analysis.parameters import zero_point
from mopt.ir import Module
from mopt.ir.weights import constant_tensor, is_constant
from numpy.typing import NDArray

_BYTES: Final = (ir.DataType.UINT8, ir.DataType.UINT4)
_QUANTIZED: Final = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True, eq=False)
class Codebook:
    """One weight that is stored as a codebook, or as one for each row.

    Attributes:
        value: the tensor that layers read; it bears the name that the weight had.
        nodes: the nodes that look it up, in topological order.
        table: the codebook's initializer or `Constant`: [K], [256, m] or [R, K]; floats, or quantised ones.
        indices: the constant that indexes it.
        halves: the table that splits bytes into two indices, if they lie so.
        rows: the shape of the indices where each row has a codebook, else None.
        order: how the axes are put in order at the end, if they are.
        dtype: the type of the elements that it stands for.
    """

    value: ir.Value
    nodes: tuple[ir.Node, ...]
    table: ir.Value
    indices: ir.Value
    shape: tuple[int, ...]
    dtype: ir.DataType
    halves: ir.Value | None = None
    rows: tuple[int, int] | None = None
    order: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.value.name or ""

    @property
    def size(self) -> int:
        """The number of elements that it stands for."""
        return int(np.prod(self.shape, dtype=np.int64))

    def numpy(self) -> NDArray[Any]:
        """Return the weight, looked up, in its own type."""
        table, indices = _array(self.table), _array(self.indices)
        assert table is not None and indices is not None
        places = indices.astype(np.int64)
        looked_up: NDArray[Any]
        if self.rows is None:
            looked_up = table[places]
        else:
            split = None if self.halves is None else _array(self.halves)
            places = (places if split is None else split[places].astype(np.int64)).reshape(self.rows)
            looked_up = np.take_along_axis(table.astype(self.dtype.numpy()), places, axis=1)
        if self.order is None:
            return looked_up.reshape(self.shape)
        inner = [0] * len(self.shape)
        for place, axis in enumerate(self.order):
            inner[axis] = self.shape[place]
        return looked_up.reshape(inner).transpose(self.order)

    def nonzero(self) -> int:
        """Return how many elements are not zero; a quantised one is zero where it equals its zero point."""
        array = self.numpy()
        if array.dtype.kind == "f":
            return int(np.count_nonzero(array))
        uses = self.value.uses()
        zero = next((z for use in uses if (z := zero_point(use.node, use.idx, array.ndim)) is not None), np.zeros(()))
        return int(np.count_nonzero(array != zero))


def codebooks(module: Module) -> Iterator[Codebook]:
    """Yield every weight of the graph (inner graphs included) that is stored as a codebook, in node order."""
    for node in module.nodes():
        if node.domain != "":
            continue
        found = None
        if node.op_type == "Gather":
            found = _read(node)
        elif node.op_type == "GatherElements":
            found = _read_rows(node)
        if found is not None:
            yield found


def codebook_parameters(module: Module) -> dict[ir.Value, tuple[int, int]]:
    """Return, for the constants that codebooks consist of, how many parameters they hold and how many are not zero.

    Indices count as the weight they stand for, codebooks not at all.
    """
    counts: dict[ir.Value, tuple[int, int]] = {}
    for book in codebooks(module):
        counts[book.indices] = (book.size, book.nonzero())
        counts.setdefault(book.table, (0, 0))
        if book.halves is not None:
            counts[book.halves] = (0, 0)
    return counts


def _read(gather: ir.Node) -> Codebook | None:
    table, indices = gather.inputs
    if table is None or indices is None or gather.attributes.get_int("axis", 0) != 0:
        return None
    nodes = [gather]
    indices = _widened(indices, nodes)
    words, content = _tensor(indices), _tensor(table)
    if indices is None or words is None or content is None or not _is_content(content, cast=len(nodes) == 2):
        return None
    if words.dtype not in _BYTES or content.shape.rank() not in (1, 2):
        return None
    value, shape = gather.outputs[0], tuple(words.shape.numpy())
    if content.shape.rank() == 2:
        target = _reshaped(value)
        if target is None or len(shape) != 1 or _splits_bytes(target[0].outputs[0]):
            return None
        nodes.append(target[0])
        value, shape = target[0].outputs[0], target[1]
    return Codebook(value, tuple(nodes), table, indices, shape, content.dtype)


def _read_rows(gather: ir.Node) -> Codebook | None:
    table, indices = gather.inputs
    if table is None or indices is None or gather.attributes.get_int("axis", 0) != 1:
        return None
    nodes, halves, packed = [gather], None, False
    indices = _widened(indices, nodes)
    producer = indices.producer() if indices is not None else None
    if producer is not None and producer.op_type == "Reshape" and len(nodes) == 2:
        split = producer.inputs[0].producer() if producer.inputs[0] is not None else None
        if split is None or split.op_type != "Gather" or split.inputs[1] is None:
            return None
        nodes[:0], packed = [split, producer], True
        halves, indices = split.inputs[0], _widened(split.inputs[1], nodes)
    words, content, pairs = _tensor(indices), _tensor(table), _tensor(halves)
    if indices is None or table is None or words is None or content is None or words.dtype not in _BYTES:
        return None
    if content.shape.rank() != 2 or not _is_content(content, cast=True) or (packed and pairs is None):
        return None
    count = words.size * (pairs.shape.numpy()[1] if pairs is not None else 1)
    rows = (int(content.shape.numpy()[0]), int(count // content.shape.numpy()[0]))
    value, dtype = gather.outputs[0], content.dtype
    cast = _only_reader(value, "Cast")
    if cast is not None and dtype == ir.DataType.FLOAT16:
        nodes.append(cast)
        value, dtype = cast.outputs[0], ir.DataType(cast.attributes.get_int("to", int(dtype)))
    value, shape, order = _ordered(value, rows, nodes)
    return Codebook(value, tuple(nodes), table, indices, shape, dtype, halves, rows, order)


def _only_reader(value: ir.Value, operator: str) -> ir.Node | None:
    """Return the node of an operator that alone reads a value."""
    readers = [usage.node for usage in value.uses()]
    if len(readers) != 1 or readers[0].op_type != operator or readers[0].domain != "" or value.is_graph_output():
        return None
    return readers[0]


def _ordered(
    value: ir.Value, shape: tuple[int, ...], nodes: list[ir.Node]
) -> tuple[ir.Value, tuple[int, ...], tuple[int, ...] | None]:
    """Follow a Reshape and a Transpose behind rows, having put them behind `nodes`; return value, shape and order."""
    reshaped = _reshaped(value)
    if reshaped is not None:
        nodes.append(reshaped[0])
        value, shape = reshaped[0].outputs[0], reshaped[1]
    transpose = _only_reader(value, "Transpose")
    if transpose is None:
        return value, shape, None
    permuted = transpose.attributes.get("perm")
    order = tuple(permuted.as_ints()) if permuted is not None else tuple(reversed(range(len(shape))))
    nodes.append(transpose)
    return transpose.outputs[0], tuple(shape[axis] for axis in order), order


def _widened(indices: ir.Value, nodes: list[ir.Node]) -> ir.Value | None:
    """Return what a Cast widens, having put it before `nodes`; what is not widened as it is."""
    cast = indices.producer()
    if cast is None or cast.op_type != "Cast" or cast.domain != "":
        return indices
    nodes.insert(0, cast)
    return cast.inputs[0]


def _is_content(tensor: ir.TensorProtocol, *, cast: bool) -> bool:
    return tensor.dtype.is_floating_point() or (cast and tensor.dtype in _QUANTIZED)


def _reshaped(value: ir.Value) -> tuple[ir.Node, tuple[int, ...]] | None:
    """Return the Reshape that alone reads a value, and the fixed shape that it gives."""
    reshape = _only_reader(value, "Reshape")
    target = None if reshape is None else _array(reshape.inputs[1])
    if reshape is None or target is None or np.any(target <= 0):
        return None
    return reshape, tuple(int(size) for size in target)


def _splits_bytes(value: ir.Value) -> bool:
    """Say whether a value is indices that lay two in a byte, and not a weight."""
    return any(
        usage.node.op_type == "Cast"
        and any(use.node.op_type == "GatherElements" and use.idx == 1 for use in usage.node.outputs[0].uses())
        for usage in value.uses()
    )


def _tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    if value is None or value.is_graph_input():
        return None
    producer = value.producer()
    if producer is not None:
        return constant_tensor(producer) if is_constant(producer) else None
    return value.const_value if value.is_initializer() else None


def _array(value: ir.Value | None) -> NDArray[Any] | None:
    tensor = _tensor(value)
    return None if tensor is None else tensor.numpy()
