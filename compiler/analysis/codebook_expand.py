"""Writing codebooks out: dense weights in their place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from mopt.analysis.codebook import codebooks
from mopt.ir import Module


def expand(module: Module) -> list[str]:
    """Write every codebook of a module out as an initializer of its name, in place; return the names."""
    names = []
    for book in list(codebooks(module)):
        graph, array, name = book.nodes[0].graph, book.numpy(), book.name
        if not isinstance(graph, ir.Graph) or book.value.is_graph_output():
            continue
        tensor = ir.Tensor(np.ascontiguousarray(array), name=name)
        dense = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        book.value.replace_all_uses_with(dense)
        book.value.name = None
        graph.initializers[name] = dense
        constants = [value for node in book.nodes for value in node.inputs if value is not None]
        graph.remove(list(reversed(book.nodes)), safe=True)
        for value in constants:
            if value.is_initializer() and not value.uses() and value.graph is not None:
                value.graph.initializers.pop(value.name or "", None)
        names.append(name)
    if names:
        module.touch()
    return names
