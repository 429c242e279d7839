"""How much each weight matters to its layer's outputs on calibration data, and making up for what moves their mean.

For y = Σ w x, the expected squared error of y that an error of w makes is, cross terms apart, Δw² E[x²]: k-means with
these weights puts centroids where outputs need them (as in Choi et al. 2017, arXiv:1612.01543, with this diagonal for
the Hessian's). What is left moves the mean of y by Δw E[x], which a bias takes off (Nagel et al. 2019, eq. 17).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values
from mopt.ir.weights import Weight
from mopt.passes.cluster.layout import constant_of
from mopt.passes.cluster.moments import Moments, moments
from mopt.passes.contract import Context, Note
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.values import DataRef

_LEAST: Final = 1e-4
"""Share of the mean weight that any element has: an input that was always zero on the data may not be in use."""

Reals = NDArray[np.float64]


class Sensitivity:
    """Knows the inputs of the layers that read some weights. Without data it knows nothing, and weighs all alike."""

    def __init__(self, module: Module, chosen: Sequence[Weight], data: DataRef | None, context: Context) -> None:
        self._module, self._data = module, data
        self._nodes: dict[str, ir.Node] = {}
        self._corrected = 0
        axes: dict[str, int] = {}
        for weight in chosen if data is not None else ():
            node, index = weight.users[0] if len(weight.users) == 1 else (None, 0)
            if node is None or node.graph is not module.graph or index != 1 or node.domain != "":
                continue
            if node.op_type == "Conv" or (node.op_type in ("MatMul", "Gemm") and len(weight.shape) == 2):
                if node.op_type == "Gemm" and node.attributes.get_int("transA", False):
                    continue
                self._nodes[weight.name] = node
                axes[_input(node)] = 1 if node.op_type == "Conv" else -1
        self._moments = {} if data is None else moments(module, axes, data, context)

    def weights(self, weight: Weight) -> Reals | None:
        """Return how much each element's squared error counts, of the weight's shape; None for all alike."""
        found = self._of(weight)
        if found is None:
            return None
        square = self._spread(weight, found.square)
        mean = float(square.mean())
        return None if mean <= 0 else np.maximum(square / mean, _LEAST)

    def correct(self, weight: Weight, clustered: NDArray[Any]) -> None:
        """Take what clustering adds to the mean of each output channel off the layer's bias, where it can have one."""
        found = self._of(weight)
        if found is None:
            return
        node = self._nodes[weight.name]
        change = (clustered.astype(np.float64) - weight.numpy()) * self._spread(weight, found.mean)
        if node.op_type == "Conv":
            self._shift(node, 2, -change.reshape(len(change), -1).sum(axis=1))
        elif node.op_type == "Gemm":
            change = change.sum(axis=1 if node.attributes.get_int("transB", False) else 0)
            alpha, beta = node.attributes.get_float("alpha", 1.0), node.attributes.get_float("beta", 1.0)
            if beta == 1.0:
                self._shift(node, 2, -alpha * change)
        else:
            readers = list(node.outputs[0].uses())
            if len(readers) == 1 and readers[0].node.op_type == "Add" and not node.outputs[0].is_graph_output():
                self._shift(readers[0].node, 1 - readers[0].idx, -change.sum(axis=0))

    def notes(self) -> list[Note]:
        """Say what the data was good for."""
        if self._data is None:
            return []
        return [
            Note(
                f"{len(self._moments)} inputs of layers seen on `{self._data}` weighed the errors of "
                f"{len(self._nodes)} weights; {self._corrected} biases corrected"
            )
        ]

    def _of(self, weight: Weight) -> Moments | None:
        node = self._nodes.get(weight.name)
        return None if node is None else self._moments.get(_input(node))

    def _spread(self, weight: Weight, by_channel: Reals) -> Reals:
        """Return what belongs to input channels in the weight's shape."""
        node, shape = self._nodes[weight.name], weight.shape
        if node.op_type == "Conv":
            groups = node.attributes.get_int("group", 1)
            rows = np.repeat(by_channel.reshape(groups, shape[1]), shape[0] // groups, axis=0)
            return np.broadcast_to(rows.reshape(*shape[:2], *(1 for _ in shape[2:])), shape)
        last = node.op_type == "Gemm" and node.attributes.get_int("transB", False)
        return np.broadcast_to(by_channel if last else by_channel[:, None], shape)

    def _shift(self, node: ir.Node, index: int, change: Reals) -> None:
        """Add to a constant input of a node; give the node one where it has none. Others that read it keep theirs."""
        value = node.inputs[index] if index < len(node.inputs) else None
        dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
        array = constant_of(value)
        if value is not None and (array is None or array.ndim == 0 or array.shape[-1] != change.size):
            return
        if value is not None and array is not None and array.size != change.size:
            return
        kind = array.dtype if array is not None else (dtype or ir.DataType.FLOAT).numpy()
        content = change if array is None else array.astype(np.float64) + change.reshape(array.shape)
        names = {one.name for one in graph_values(self._module.graph) if one.name}
        name = fresh(f"{node.name}_bias", names)
        tensor = ir.Tensor(content.astype(kind), name=name)
        new = ir.Value(name=name, shape=ir.Shape(content.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self._module.graph.initializers[name] = new
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        node.replace_input_with(index, new)
        if value is not None and value.is_initializer() and not value.uses() and not value.is_graph_output():
            self._module.graph.initializers.pop(value.name or "", None)
        self._corrected += 1


def _input(node: ir.Node) -> str:
    return (node.inputs[0].name if node.inputs[0] is not None else None) or ""
