"""Cutting channels out of a graph: weights get smaller, and attributes, shapes and bounds follow them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling import Couplings
from mopt.analysis.coupling.layout import bounds
from mopt.analysis.coupling.linear import GATES
from mopt.analysis.coupling.operands import entries
from mopt.ir import Module
from mopt.ir.naming import fresh
from mopt.rewrite.attributes import integer
from mopt.rewrite.constants import any_constant
from mopt.rewrite.surgery import drop_unused_initializers
from numpy.typing import NDArray

Masks = Mapping[ir.Value, Mapping[int, NDArray[np.bool_]]]
"""For every tensor that loses something: axis → which of its indices stay."""


def cut(module: Module, couplings: Couplings, atoms: NDArray[np.int64]) -> None:
    """Take the indices of these atoms (representatives, see `Group.atoms`) out of a module, in place.

    `couplings` must be the analysis of this very module, unchanged since.
    """
    masks = kept_masks(couplings, atoms)
    if not masks:
        return
    names = {value.name or "" for value in couplings.sizes}
    follow = _Followers(module, couplings, masks, names)
    for node in list(module.graph):
        follow.node(node)
    for weight in list(module.weights()):
        lost = masks.get(weight.value)
        if lost is not None:
            array = weight.numpy()
            for axis, mask in lost.items():
                array = np.compress(mask, array, axis=axis)
            weight.replace(array)
    for value, lost in masks.items():
        if value.shape is not None:
            value.shape = ir.Shape(
                int(lost[axis].sum()) if axis in lost and (value, axis) not in couplings.merged else dim
                for axis, dim in enumerate(value.shape)
            )
    for node in [node for node in module.graph if node.op_type == "Constant" and not node.outputs[0].uses()]:
        if not node.outputs[0].is_graph_output():
            module.graph.remove(node, safe=True)
    drop_unused_initializers(module.graph)
    module.touch()
    module.infer_shapes()


def kept_masks(c: Couplings, atoms: NDArray[np.int64]) -> Masks:
    """Return what stays of every tensor that loses something when these atoms go."""
    count = len(c.elements)
    gone = np.zeros(count, bool)
    gone[atoms] = True
    lost = gone[c.elements.find(np.arange(count, dtype=np.int64))]
    masks: dict[ir.Value, dict[int, NDArray[np.bool_]]] = {}
    for value, axis in c.start:
        own = lost[c.ids(value, axis)]
        if own.any():
            masks.setdefault(value, {})[axis] = ~own
    return masks


class _Followers:
    """What else a node has to change when the tensors around it get smaller."""

    def __init__(self, module: Module, couplings: Couplings, masks: Masks, names: set[str]) -> None:
        self._module = module
        self._c = couplings
        self._masks = masks
        self._names = names

    def node(self, node: ir.Node) -> None:
        """Change the attributes and the constant operands of one node."""
        if node.op_type in ("Conv", "ConvTranspose"):
            self._groups(node)
        elif node.op_type in GATES:
            kept = self._kept(node.inputs[2], 2)
            if kept is not None:
                node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", kept)
        elif node.op_type in ("Reshape", "Expand"):
            self._entries(node, 1)
        elif node.op_type == "ConstantOfShape":
            self._entries(node, 0)
        elif node.op_type == "Resize" and len(node.inputs) > 3 and node.inputs[3] is not None:
            if "axes" not in node.attributes:
                self._entries(node, 3)
        elif node.op_type == "Split":
            self._split(node)
        elif node.op_type == "Slice":
            self._slice(node)

    def _kept(self, value: ir.Value | None, axis: int) -> int | None:
        """Return how many indices of an axis stay, or None if all do."""
        mask = self._masks.get(value, {}).get(axis) if value is not None else None
        return None if mask is None else int(mask.sum())

    def _groups(self, node: ir.Node) -> None:
        groups, kernel = integer(node, "group", 1), node.inputs[1]
        assert kernel is not None
        # A depthwise convolution has a group for each channel; others keep their groups, which get narrower.
        deep = self._c.size(kernel, 1 if node.op_type == "Conv" else 0)
        if groups > 1 and deep == (1 if node.op_type == "Conv" else groups):
            kept = self._kept(node.inputs[0], 1)
            if kept is not None:
                node.attributes["group"] = ir.AttrInt64("group", kept)

    def _entries(self, node: ir.Node, index: int) -> None:
        """Write the new sizes into a shape; 0 (as before) and -1 (what is left) look after themselves."""
        result = node.outputs[0]
        shape = node.inputs[index]
        wanted = entries(shape, self._c.rank(result))
        shift = self._c.rank(result) - len(wanted)
        new = {
            axis - shift: int(mask.sum())
            for axis, mask in self._masks.get(result, {}).items()
            if axis >= shift
            and (wanted[axis - shift] or 0) > 0
            # An Expand may leave an axis to its operand by a 1.
            and not (node.op_type == "Expand" and wanted[axis - shift] == 1)
        }
        if new and shape is not None:
            node.replace_input_with(index, self._patched(node, shape, new))

    def _patched(self, node: ir.Node, shape: ir.Value, new: Mapping[int, int]) -> ir.Value:
        array = any_constant(shape)
        if array is not None:
            flat = np.array(array)
            for position, size in new.items():
                flat[position] = size
            return self._constant(f"{node.name}/shape", flat)
        joined = shape.producer()
        assert joined is not None and joined.op_type == "Concat"
        parts, offset = [], 0
        for operand in joined.inputs:
            part = any_constant(operand)
            if part is None or operand is None:
                length = operand.shape[0] if operand is not None and operand.shape is not None else 1
                parts.append(operand)
                offset += length if isinstance(length, int) else 1
                continue
            inside = {position - offset: size for position, size in new.items() if 0 <= position - offset < len(part)}
            offset += len(part)
            parts.append(self._patched(node, operand, inside) if inside else operand)
        # Another node may read the same Concat for a shape of its own, so this one gets a copy.
        name = fresh(f"{shape.name}/cut", self._names)
        copy = ir.node("Concat", parts, {"axis": 0}, name=name, outputs=[ir.Value(name=name, type=shape.type)])
        copy.outputs[0].shape = shape.shape
        copy.metadata_props.update(joined.metadata_props)
        self._module.graph.insert_before(node, copy)
        return copy.outputs[0]

    def _split(self, node: ir.Node) -> None:
        data = node.inputs[0]
        assert data is not None
        axis = integer(node, "axis", 0) % self._c.rank(data)
        if self._kept(data, axis) is None:
            return
        sizes = []
        for result in node.outputs:
            kept, whole = self._kept(result, axis), self._c.size(result, axis)
            sizes.append(kept if kept is not None else whole or 0)
        node.attributes.pop("num_outputs", None)
        if self._c.opset < 13:
            node.attributes["split"] = ir.AttrInt64s("split", sizes)
            return
        node.resize_inputs(2)
        node.replace_input_with(1, self._constant(f"{node.name}/split", np.array(sizes, np.int64)))

    def _slice(self, node: ir.Node) -> None:
        data = node.inputs[0]
        assert data is not None
        taken = bounds(node, self._c.rank(data)) or {}
        lost = self._masks.get(data, {})
        if not any(axis in lost for axis in taken):
            return
        starts, ends = [], []
        for axis, (start, end, step) in taken.items():
            mask = lost.get(axis)
            if mask is not None:
                start, end, _ = slice(start, end, step).indices(len(mask))
                start, end = int(mask[:start].sum()), int(mask[:end].sum())
            starts.append(start)
            ends.append(end)
        if self._c.opset < 10:
            node.attributes["starts"] = ir.AttrInt64s("starts", starts)
            node.attributes["ends"] = ir.AttrInt64s("ends", ends)
            return
        kind = np.asarray(any_constant(node.inputs[1])).dtype
        for index, name, values in ((1, "starts", starts), (2, "ends", ends)):
            node.replace_input_with(index, self._constant(f"{node.name}/{name}", np.array(values, kind)))

    def _constant(self, base: str, array: NDArray[Any]) -> ir.Value:
        name = fresh(base, self._names)
        value = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
            const_value=ir.tensor(array, name=name),
        )
        self._module.graph.initializers.add(value)
        return value
