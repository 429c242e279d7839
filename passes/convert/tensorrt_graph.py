"""What every lowering to TensorRT shares: the constants around a quantised node, and how a refusal is worded."""

from __future__ import annotations

from typing import Any, Final

import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.ir.naming import fresh
from mopt.ir.walk import nested_graphs
from mopt.passes.contract import PassError
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

BY: Final = "convert.tensorrt"
MICROSOFT: Final = "com.microsoft"


class Lowering(Editor):
    """Edits one module for TensorRT, and counts what it did.

    Attributes:
        done: how many nodes each lowering took, by what a reader is told of it.
    """

    def __init__(self, module: Module) -> None:
        super().__init__(module, signed=True, by=BY)
        self.done: dict[str, int] = {}

    def count(self, what: str) -> None:
        """Count one node."""
        self.done[what] = self.done.get(what, 0) + 1

    def put(self, node: ir.Node, index: int, value: ir.Value) -> None:
        """Give a node another input."""
        node.replace_input_with(index, value)
        provenance.inherit([node], [node], BY)

    def stored(self, held: ir.TensorProtocol, label: str) -> ir.Value:
        """Return an initializer of a type that numpy has no name for."""
        name = fresh(label, self._names)
        held.name = name
        value = ir.Value(
            name=name, shape=ir.Shape(held.shape.numpy()), type=ir.TensorType(held.dtype), const_value=held
        )
        self.module.graph.initializers[name] = value
        return value

    def redirect(self, node: ir.Node, value: ir.Value) -> None:
        """Let everything that read a node's first output read another value, and remove the node.

        Where the output is one of the model's, a copy takes its name: others may read the value, too.
        """
        old = node.outputs[0]
        if old.is_graph_output():
            (value,) = self.insert(node, "Identity", [value], label=f"{old.name}_result", shape=old.shape)
            name = old.name
            old.replace_all_uses_with(value, replace_graph_outputs=True)
            old.name, value.name, value.type = None, name, old.type
        else:
            old.replace_all_uses_with(value)
        assert node.graph is not None
        node.graph.remove(node, safe=True)

    def clear(self) -> None:
        """Remove constants, and chains of nodes without effect, that nothing reads any more."""
        for graph in nested_graphs(self.module.graph):
            for node in reversed(list(graph)):
                if not any(output.uses() or output.is_graph_output() for output in node.outputs):
                    graph.remove(node, safe=True)
            for name, value in list(graph.initializers.items()):
                if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                    graph.initializers.pop(name)


def parameter(node: ir.Node, index: int, what: str) -> NDArray[Any] | None:
    """Return a constant input of a quantised node; None where it is absent.

    Raises:
        PassError: the graph computes it.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        return None
    array = constant_array(value)
    if array is None:
        raise refusal(node, f"its {what} is computed by the graph")
    return array


def spread(array: NDArray[Any], axis: int, rank: int) -> NDArray[Any]:
    """Return a vector along one axis of a tensor of that rank, ready to broadcast; a scalar as it is."""
    if array.size == 1:
        return array.reshape(())
    shape = [1] * rank
    shape[axis % rank] = -1
    return array.reshape(shape)


def refusal(node: ir.Node, reason: str, help: str = "") -> PassError:
    """Word an error of a node: its operator, the source layer it stands for, the step that made it."""
    layers = ", ".join(f"`{name}`" for name in provenance.origins(node)[:3])
    steps = [entry.split("/")[0] for entry in provenance.history(node)]
    made = f", made by `{steps[-1]}`" if steps else ""
    of = f" of layer {layers}" if layers else ""
    return PassError(
        f"TensorRT can't take `{node.op_type}`{of}{made}: {reason}",
        node=node.name,
        help=help or "quantise with `quantize.static(…, placement=tensorrt)`, or emit this pipeline for `ort` alone",
    )
