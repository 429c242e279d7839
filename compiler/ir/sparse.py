"""Sparse tensors of ONNX files, made dense: no runtime computes on them, and onnx_ir does not represent them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper


def densify(proto: onnx.ModelProto) -> list[str]:
    """Replace the sparse initializers and constants of a proto, in place, and say which."""
    notes: list[str] = []
    for graph in _proto_graphs(proto):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(_dense(sparse))
            notes.append(f"sparse initializer `{sparse.values.name}` was made dense")
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "sparse_value":
                    tensor = _dense(attribute.sparse_tensor)
                    attribute.Clear()
                    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                    attribute.t.CopyFrom(tensor)
                    notes.append(f"sparse constant `{node.output[0]}` was made dense")
    return notes


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(sparse.values)
    indices = numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), dtype=values.dtype)
    if indices.ndim == 1:
        dense.reshape(-1)[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return numpy_helper.from_array(dense, sparse.values.name)


def _proto_graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    pending = [proto.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)
