"""Codebooks in a graph: which of the spellings of `mopt.analysis.codebook` is smallest, and putting it in place.

Indices are spelt as `uint4` where the opset has that type (21), which packs two a byte. Below, and for 1 and 2 bits, a
byte of several indices looks all its elements up at once in a table that says them for each of the 256 bytes: no
arithmetic on bits, which constant folding would carry out, and one Gather at any opset. Indices are widened to int64
by a Cast, since Gather reads no smaller ones; that makes them larger, so that no constant folder with a limit of
growth undoes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs, nested_nodes
from mopt.ir.weights import Weight
from numpy.typing import NDArray

BY: Final = "cluster.kmeans"
_HALF_ERROR: Final = 1e-3
"""Half precision holds codebooks of rows whose centroids it moves by no more than this share of their range."""
_HALF_PEAK: Final = 6e4
_UINT4_OPSET: Final = 21
_UINT4_IR: Final = 10
"""The IR version that came with opset 21, and with `uint4` in files."""
_LOOKUPS: Final = 2048
"""Look-ups that are not worth a table: written out as int64, they take no more than folders write out anyway."""


@dataclass(frozen=True)
class Storage:
    """How a clustered weight is stored: `bits` an index; in a table of bytes where `table`, else one by one."""

    bits: int
    table: bool
    nbytes: int


def smallest_rows(rows: int, size: int, clusters: int, itemsize: int, opset: int) -> Storage:
    """Return the storage that takes the fewest bytes for `rows` codebooks and `size` elements."""
    books = rows * clusters * itemsize
    found = [Storage(8, False, size + books)]
    if clusters <= 16 and opset >= _UINT4_OPSET:
        found.append(Storage(4, False, -(-size // 2) + books))
    elif clusters <= 16 and size % 2 == 0 and size // 2 > _LOOKUPS:
        found.append(Storage(4, True, size // 2 + books))
    return min(found, key=lambda storage: storage.nbytes)


def smallest_storage(size: int, clusters: int, itemsize: int, opset: int) -> Storage:
    """Return the storage that takes the fewest bytes for `size` elements of `itemsize` bytes."""
    found = [Storage(8, False, size + clusters * itemsize)]
    if clusters <= 16 and opset >= _UINT4_OPSET:
        found.append(Storage(4, False, -(-size // 2) + clusters * itemsize))
    for bits in (4, 2, 1):
        each = 8 // bits
        if clusters <= 1 << bits and size % each == 0 and size // each > _LOOKUPS:
            found.append(Storage(bits, True, size // each + 256 * each * itemsize))
    return min(found, key=lambda storage: storage.nbytes)


class Writer:
    """Puts codebooks into one module, under names that are free in it."""

    def __init__(self, module: Module, by: str = BY) -> None:
        self._module, self._by = module, by
        self._halves: dict[ir.Graph, ir.Value] = {}
        self._values = {
            value.name for graph in nested_graphs(module.graph) for value in graph_values(graph) if value.name
        }
        self._nodes = {node.name for node in nested_nodes(module.graph) if node.name}

    def store(self, weight: Weight, centroids: NDArray[Any], indices: NDArray[np.uint8], storage: Storage) -> None:
        """Replace a weight by its look-up; the float tensor keeps the weight's name, and its readers do not change."""
        name, readers = weight.value.name or "", [usage.node for usage in weight.value.uses()]
        codebook = centroids
        packed: ir.TensorProtocol = ir.Tensor(indices)
        if storage.table:
            codebook, packed = _table(centroids, storage.bits), ir.Tensor(_packed(indices, storage.bits))
        elif storage.bits == 4:
            packed = _uint4(indices)
            self._module.model.ir_version = max(self._module.model.ir_version or 0, _UINT4_IR)
        graph = weight.graph
        stored = self._initializer(graph, f"{name}_indices", packed)
        nodes = [self._wide(stored, name)]
        table = self._initializer(graph, f"{name}_codebook", ir.Tensor(codebook))
        looked_up = ir.Shape([*packed.shape, *codebook.shape[1:]])
        dtype = weight.tensor.dtype
        axis = [ir.AttrInt64("axis", 0)]
        nodes.append(self._node("Gather", [table, nodes[0].outputs[0]], axis, name, "values", dtype, looked_up))
        if storage.table:
            shape = self._initializer(graph, f"{name}_shape", ir.Tensor(np.array(indices.shape, np.int64)))
            inputs = [nodes[-1].outputs[0], shape]
            nodes.append(self._node("Reshape", inputs, [], name, "weight", dtype, ir.Shape(indices.shape)))
        self._put(weight, nodes, readers)

    def store_rows(
        self, weight: Weight, centroids: NDArray[Any], indices: NDArray[np.uint8], axis: int, storage: Storage
    ) -> None:
        """Replace a weight by look-ups with a codebook for each row.

        Args:
            centroids: [R, K], in half precision where that is how they are to be kept.
            indices: [R, S]; rows are parts of the weight with `axis` moved to the front.
        """
        name, readers, dtype = (
            weight.value.name or "",
            [usage.node for usage in weight.value.uses()],
            weight.tensor.dtype,
        )
        graph, rows = weight.graph, ir.Shape(indices.shape)
        if storage.table:
            stored = self._initializer(graph, f"{name}_indices", ir.Tensor(_packed(indices, 4)))
            shape = self._initializer(graph, f"{name}_rows", ir.Tensor(np.array(indices.shape, np.int64)))
            nodes = [self._wide(stored, name)]
            inputs = [self._halves_of(graph), nodes[0].outputs[0]]
            pairs = ir.Shape([indices.size // 2, 2])
            along = [ir.AttrInt64("axis", 0)]
            nodes.append(self._node("Gather", inputs, along, name, "halves", ir.DataType.UINT8, pairs))
            inputs = [nodes[-1].outputs[0], shape]
            nodes.append(self._node("Reshape", inputs, [], name, "split", ir.DataType.UINT8, rows))
            nodes.append(self._wide(nodes[-1].outputs[0], name))
        else:
            packed = ir.Tensor(indices)
            if storage.bits == 4:
                packed = _uint4(indices)  # type: ignore[assignment]
                self._module.model.ir_version = max(self._module.model.ir_version or 0, _UINT4_IR)
            nodes = [self._wide(self._initializer(graph, f"{name}_indices", packed), name)]
        table = self._initializer(graph, f"{name}_codebooks", ir.Tensor(np.ascontiguousarray(centroids)))
        along, inputs, kept = [ir.AttrInt64("axis", 1)], [table, nodes[-1].outputs[0]], table.dtype or dtype
        nodes.append(self._node("GatherElements", inputs, along, name, "values", kept, rows))
        if kept != dtype:
            to, inputs = [ir.AttrInt64("to", int(dtype))], [nodes[-1].outputs[0]]
            nodes.append(self._node("Cast", inputs, to, name, "full", dtype, rows))
        moved = (weight.shape[axis], *weight.shape[:axis], *weight.shape[axis + 1 :])
        if moved != indices.shape:
            shape = self._initializer(graph, f"{name}_shape", ir.Tensor(np.array(moved, np.int64)))
            inputs = [nodes[-1].outputs[0], shape]
            nodes.append(self._node("Reshape", inputs, [], name, "weight", dtype, ir.Shape(moved)))
        if axis:
            order = [*range(1, axis + 1), 0, *range(axis + 1, len(moved))]
            back = [ir.AttrInt64s("perm", order)]
            inputs = [nodes[-1].outputs[0]]
            nodes.append(self._node("Transpose", inputs, back, name, "order", dtype, ir.Shape(weight.shape)))
        self._put(weight, nodes, readers)

    def _wide(self, indices: ir.Value, name: str) -> ir.Node:
        to = [ir.AttrInt64("to", int(ir.DataType.INT64))]
        return self._node("Cast", [indices], to, name, "wide", ir.DataType.INT64, indices.shape)

    def _halves_of(self, graph: ir.Graph) -> ir.Value:
        """Return the table of the two halves of each byte: one serves all weights of a graph."""
        if graph not in self._halves:
            places = np.arange(256, dtype=np.uint8)
            table = np.stack((places & 15, places >> 4), axis=1)
            self._halves[graph] = self._initializer(graph, "halves_of_bytes", ir.Tensor(table))
        return self._halves[graph]

    def _put(self, weight: Weight, nodes: list[ir.Node], readers: Sequence[ir.Node]) -> None:
        old, new, graph = weight.value, nodes[-1].outputs[0], weight.graph
        name = old.name or ""
        graph.insert_before(weight.node if weight.node is not None else graph[0], nodes)
        provenance.inherit(nodes, [weight.node] if weight.node is not None else list(readers), self._by)
        old.replace_all_uses_with(new)
        if weight.node is not None:
            graph.remove(weight.node, safe=True)
        else:
            graph.initializers.pop(name)
        old.name = None
        new.name = name

    def _initializer(self, graph: ir.Graph, label: str, tensor: ir.TensorProtocol) -> ir.Value:
        tensor.name = fresh(label, self._values)
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        graph.initializers[tensor.name] = value
        return value

    def _node(
        self,
        operator: str,
        inputs: Sequence[ir.Value],
        attributes: Sequence[ir.Attr],
        weight: str,
        role: str,
        dtype: ir.DataType,
        shape: Any,
    ) -> ir.Node:
        node = ir.Node("", operator, inputs, attributes, name=fresh(f"{weight}/{role}", self._nodes))
        output = node.outputs[0]
        output.name, output.type, output.shape = fresh(f"{weight}_{role}", self._values), ir.TensorType(dtype), shape
        return node


def halved(centroids: NDArray[Any]) -> NDArray[Any]:
    """Return centroids [R, K] in half precision where that moves none by much, else as they are."""
    peak = np.abs(centroids).max(axis=1, keepdims=True, initial=0)
    if centroids.dtype.itemsize <= 2 or centroids.dtype.kind != "f" or peak.max(initial=0) > _HALF_PEAK:
        return centroids
    half = centroids.astype(np.float16)
    moved = np.abs(half.astype(centroids.dtype) - centroids) > _HALF_ERROR * peak
    flushed = (half == 0) & (centroids != 0)
    return centroids if moved.any() or flushed.any() else half


def _packed(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack indices into bytes, the first in the lowest bits."""
    each = 8 // bits
    parts = indices.reshape(-1, each) << (np.arange(each, dtype=np.uint8) * np.uint8(bits))
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(parts.astype(np.uint8), axis=1)
    return packed


def _table(centroids: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return what each byte of packed indices stands for: [256, 8 / bits]. Indices beyond the codebook are unused."""
    shifts = np.arange(8 // bits) * bits
    digits = (np.arange(256)[:, None] >> shifts) & ((1 << bits) - 1)
    table: NDArray[Any] = centroids[np.minimum(digits, centroids.size - 1)]
    return table


def _uint4(indices: NDArray[np.uint8]) -> ir.TensorProtocol:
    flat = indices.reshape(-1)
    padded = np.append(flat, np.zeros(flat.size % 2, np.uint8))
    return ir.PackedTensor(_packed(padded, 4), ir.DataType.UINT4, shape=ir.Shape(indices.shape))
