"""Weights kept in 8 bits and computed with in float: recurrent layers, transposed convolutions, embedding tables.

onnxruntime has no integer kernel for these with fixed grids. DequantizeLinear before them makes the file a quarter;
it runs with every call (0.1 ns a weight), because onnxruntime does not fold it. The product X · Wᵀ of a recurrent
layer can't be taken out of it in standard operators: `LSTM` would have to multiply it by an identity of 4H × 4H, in
float, which costs more than an integer product saves unless the input is far wider than the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.passes.contract import Note, PassError
from mopt.passes.quantize import dynamic_operators
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.passes.quantize.symmetric import quantize
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static

BY: Final = "quantize.static"
STORED: Final = ("LSTM", "GRU", "RNN", "ConvTranspose", "Gather")
LEAST: Final = 1024
"""Weights of fewer elements are not worth the nodes that read them back."""

How = Literal["read back", "integer"]


@dataclass(frozen=True)
class Stored:
    """What was stored.

    Attributes:
        nodes: the names of nodes whose weights are in 8 bits, by operator and how they run.
        left: nodes left in float, by reason.
        elements: how many weights.
    """

    nodes: dict[tuple[str, How], list[str]]
    left: dict[str, list[ir.Node]]
    elements: int


class _Store(Editor):
    def __init__(self, module: Module, *, per_channel: bool) -> None:
        super().__init__(module, signed=True)
        self.per_channel = per_channel
        self._reals: dict[tuple[ir.Value, int | None], ir.Value] = {}

    def insert(
        self, before: ir.Node, operator: str, inputs: Sequence[ir.Value | None], **how: Any
    ) -> tuple[ir.Value, ...]:
        outputs = super().insert(before, operator, inputs, **how)
        made = outputs[0].producer()
        assert made is not None
        made.metadata_props.clear()
        provenance.inherit([made], [before], BY)
        return outputs

    def read_back(self, node: ir.Node, index: int, array: NDArray[Any], kept: tuple[int, ...]) -> None:
        """Put int8 and DequantizeLinear in place of a weight; slices along the axes `kept` have a scale each."""
        source = node.inputs[index]
        assert source is not None
        # DequantizeLinear has scales along one axis: axes before the last kept one are taken together with it.
        axis = kept[-1] if kept else None
        key = (source, axis)
        if key not in self._reals:
            found = quantize(array, tuple(other for other in range(array.ndim) if other not in kept), signed=True)
            self.elements += array.size
            values, scale = found.values, found.scale.reshape(-1) if kept else found.scale.reshape(())
            folds = axis is not None and scale.size != array.shape[axis]
            if folds:
                values, axis = values.reshape(scale.size, *array.shape[kept[-1] + 1 :]), 0
            inputs = [
                self.constant(values, f"{source.name}_quantized"),
                self.constant(scale, f"{source.name}_scale"),
                self.constant(np.zeros(scale.shape, np.int8), f"zeros_{scale.size}"),
            ]
            attributes = {} if axis is None else {"axis": ir.AttrInt64("axis", axis)}
            label = f"{source.name}_real"
            (real,) = self.insert(
                node, "DequantizeLinear", inputs, label=label, shape=ir.Shape(values.shape), attributes=attributes
            )
            if folds:
                shape = self.constant(np.array(array.shape, np.int64), f"{source.name}_shape")
                (real,) = self.insert(node, "Reshape", [real, shape], label=label, shape=ir.Shape(array.shape))
            self._reals[key] = real
        node.replace_input_with(index, self._reals[key])
        provenance.inherit([node], [node], BY)


def store(module: Module, nodes: Iterable[ir.Node], options: Static) -> Stored:
    """Keep the weights of `nodes`, in graph order, in 8 bits.

    Raises:
        PassError: a weight holds NaN or an infinity.
    """
    editor = _Store(module, per_channel=options.per_channel)
    done: dict[tuple[str, How], list[str]] = {}
    left: dict[str, list[ir.Node]] = {}
    for node in nodes:
        name, operator = node.name or "", node.op_type
        how: How = "read back"
        if operator == "LSTM" and options.recurrent == "integer":
            reason, how = _integer(editor, node), "integer"
        else:
            reason = _REWRITES[operator](editor, node)
        if reason is None:
            done.setdefault((operator, how), []).append(name)
        elif reason:
            left.setdefault(f"{operator}: {reason}", []).append(node)
    _clear(module)
    module.touch()
    return Stored(done, left, editor.elements)


def notes(found: Stored) -> list[Note]:
    """Return a note for each operator whose weights were stored."""
    said = {"read back": "read back to float before they run", "integer": "onnxruntime's integer operator runs them"}
    return [
        Note(f"{len(names)} {operator}: weights in 8 bits, {said[how]}", nodes=tuple(names))
        for (operator, how), names in sorted(found.nodes.items())
    ]


def _weight(node: ir.Node, index: int) -> NDArray[Any] | str:
    """Return a constant float32 weight, or why it stays: an empty reason for one not worth a word."""
    array = constant_array(node.inputs[index]) if index < len(node.inputs) else None
    if array is None:
        return "its weight is computed by the graph"
    if array.dtype != np.float32:
        return f"its weight is {array.dtype.name}; quantise before converting to another precision"
    if array.size < LEAST:
        return f"its weight has fewer than {LEAST:,} elements"
    if not np.isfinite(array).all():
        raise PassError(f"the weight of node `{node.name}` holds NaN or infinite values", node=node.name)
    return array


def _recurrent(editor: _Store, node: ir.Node) -> str | None:
    """W [D, GH, I] and R [D, GH, H]: a scale for each direction's gate row."""
    found = [(index, _weight(node, index)) for index in (1, 2)]
    arrays = [(index, array) for index, array in found if not isinstance(array, str)]
    if not arrays:
        return next(array for _, array in found if isinstance(array, str))
    for index, array in arrays:
        editor.read_back(node, index, array, (0, 1) if editor.per_channel else ())
    return None


def _transposed(editor: _Store, node: ir.Node) -> str | None:
    """W [C, M / group, kH, kW]: a scale for each of the second axis, or, depthwise, for each of the first."""
    array = _weight(node, 1)
    if isinstance(array, str):
        return array
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    axis = 0 if group == array.shape[0] else 1
    # Not both axes: DequantizeLinear has one, and integer kernels of other runtimes take it along output channels.
    editor.read_back(node, 1, array, (axis,) if editor.per_channel else ())
    return None


def _table(editor: _Store, node: ir.Node) -> str | None:
    """Rows of an embedding [V, E]: a scale for each row, gathered with it."""
    array = constant_array(node.inputs[0])
    if array is None or array.dtype != np.float32 or array.ndim != 2 or array.size < LEAST:
        return ""  # most Gathers read shapes
    reason = dynamic_operators.gather(editor, node, dynamic_operators.Limits(editor.per_channel, LEAST))
    return None if reason is None else ""


def _integer(editor: _Store, node: ir.Node) -> str | None:
    if any(isinstance(_weight(node, index), str) for index in (1, 2)):
        return _recurrent(editor, node)
    return dynamic_operators.lstm(editor, node, dynamic_operators.Limits(editor.per_channel, LEAST))


_REWRITES: Final[dict[str, Callable[[_Store, ir.Node], str | None]]] = {
    "LSTM": _recurrent, "GRU": _recurrent, "RNN": _recurrent, "ConvTranspose": _transposed, "Gather": _table,
}  # fmt: skip


def _clear(module: Module) -> None:
    """Remove constants that nothing reads any more."""
    graph = module.graph
    for node in reversed(list(graph)):
        if node.op_type == "Constant" and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            graph.initializers.pop(name)
