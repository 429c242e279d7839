"""Weights stored as a codebook and indices into it: how the graph spells them, and what they stand for.

Two spellings, both of operators that every runtime has and folds when it loads the model:

    w = Gather(codebook [K], Cast(indices [shape of w]))                one index an element, 8 or 4 bits each
    w = Reshape(Gather(table [256, m], Cast(bytes [size / m])), shape)  m indices a byte, the table says all m values
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.weights import constant_tensor, is_constant
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Codebook:
    """One weight that is stored as a codebook.

    Attributes:
        value: the float tensor that layers read; it bears the name that the weight had.
        nodes: the nodes that look it up, in topological order.
        table: the codebook's initializer or `Constant`, [K] or [256, m].
        indices: the constant that indexes it.
    """

    value: ir.Value
    nodes: tuple[ir.Node, ...]
    table: ir.Value
    indices: ir.Value
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The weight's name."""
        return self.value.name or ""

    @property
    def size(self) -> int:
        """The number of elements that it stands for."""
        return int(np.prod(self.shape, dtype=np.int64))

    def numpy(self) -> NDArray[Any]:
        """Return the weight, looked up."""
        table, indices = _array(self.table), _array(self.indices)
        assert table is not None and indices is not None
        looked_up: NDArray[Any] = table[indices.astype(np.int64)].reshape(self.shape)
        return looked_up


def codebooks(module: Module) -> Iterator[Codebook]:
    """Yield every weight of the graph (inner graphs included) that is stored as a codebook, in node order."""
    for node in module.nodes():
        if node.op_type == "Gather" and node.domain == "":
            found = _read(node)
            if found is not None:
                yield found


def codebook_parameters(module: Module) -> dict[ir.Value, tuple[int, int]]:
    """Return, for the constants that codebooks consist of, how many parameters they hold and how many are not zero.

    Indices count as the weight they stand for, codebooks not at all.
    """
    counts: dict[ir.Value, tuple[int, int]] = {}
    for book in codebooks(module):
        counts[book.indices] = (book.size, int(np.count_nonzero(book.numpy())))
        counts.setdefault(book.table, (0, 0))
    return counts


def _read(gather: ir.Node) -> Codebook | None:
    table, indices = gather.inputs
    if table is None or indices is None or gather.attributes.get_int("axis", 0) != 0:
        return None
    nodes = [gather]
    cast = indices.producer()
    if cast is not None and cast.op_type == "Cast" and cast.domain == "":
        nodes.insert(0, cast)
        indices = cast.inputs[0]
    words, content = _tensor(indices), _tensor(table)
    if indices is None or words is None or content is None or not content.dtype.is_floating_point():
        return None
    if words.dtype not in (ir.DataType.UINT8, ir.DataType.UINT4) or content.shape.rank() not in (1, 2):
        return None
    value, shape = gather.outputs[0], tuple(words.shape.numpy())
    if content.shape.rank() == 2:
        readers = [usage.node for usage in value.uses()]
        if len(readers) != 1 or readers[0].op_type != "Reshape" or len(shape) != 1:
            return None
        target = _array(readers[0].inputs[1])
        if target is None or np.any(target <= 0):
            return None
        nodes.append(readers[0])
        value, shape = readers[0].outputs[0], tuple(int(size) for size in target)
    return Codebook(value, tuple(nodes), table, indices, shape)


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
