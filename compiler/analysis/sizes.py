"""Concrete shapes of every value once the dynamic dimensions are bound: what MACs are counted on.

onnx's inference follows many shape computations, but not all that exporters write (a resize to the size of another
feature map, say). So the two alternate here: infer; evaluate whatever small integer arithmetic has become constant;
put the results in; infer again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir.dtypes import dims
from mopt.ir.module import Module
from mopt.ir.walk import nested_graphs
from mopt.ir.weights import constant_tensor, is_constant

DEFAULT_BATCH = 1
DEFAULT_SPATIAL = 224
DEFAULT_LENGTH = 128

_ROUNDS = 32
"""Of inference and evaluation: a bound on nested shape computations, not expected to be reached."""

_LARGEST = 1024
"""Elements of the largest tensor that is evaluated: shapes are short."""

_FOLDABLE = {
    "Abs", "Add", "Cast", "Ceil", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Flatten", "Floor", "Gather",
    "Greater", "Identity", "Less", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Range", "ReduceMax", "ReduceMin",
    "ReduceProd", "ReduceSum", "Reshape", "Round", "Shape", "Size", "Slice", "Sqrt", "Squeeze", "Sub", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip
"""The operators that shape computations are made of."""

Sizes = dict[ir.Value, tuple[int | None, ...]]


def bind(module: Module, bindings: Mapping[str, int]) -> dict[str, int]:
    """Return a size for every dynamic dimension of a module's inputs, by name.

    A dimension that `bindings` leaves open is 1 where it is the batch (the first of its input, or the second of a
    state of several layers), else 224 in an input of four dimensions or more (an image) and 128 in others (a
    sequence).
    """
    bound: dict[str, int] = {}
    for info in module.inputs:
        for axis, dim in enumerate(info.shape):
            if isinstance(dim, str) and dim not in bound:
                bound[dim] = bindings.get(dim, _default(axis, info.shape))
    return bound


def _default(axis: int, shape: tuple[int | str | None, ...]) -> int:
    layers = shape[0]
    if axis == 0 or (axis == 1 and len(shape) == 3 and isinstance(layers, int) and layers > 1):
        return DEFAULT_BATCH
    return DEFAULT_SPATIAL if len(shape) >= 4 else DEFAULT_LENGTH


def resolve(module: Module, bound: Mapping[str, int]) -> Sizes:
    """Fix the dynamic dimensions of a module (in place: hand in a copy) and return the sizes of all its values."""
    for value in module.graph.inputs:
        known = dims(value.shape)
        if known is None:
            continue
        value.shape = ir.Shape([dim if isinstance(dim, int) else bound[dim or ""] for dim in known])
    for graph in nested_graphs(module.graph):
        for node in graph:
            for output in node.outputs:
                output.shape = None
    for _ in range(_ROUNDS):
        module.infer_shapes()
        constants = _constants(module)
        if not (_fold(module, constants) | _take_branches(module, constants)):
            break
    return {
        value: shape
        for graph in nested_graphs(module.graph)
        for value in _values(graph)
        if (shape := _known(value)) is not None
    }


def _values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        values.extend(node.outputs)
    return values


def _known(value: ir.Value) -> tuple[int | None, ...] | None:
    known = dims(value.shape)
    if known is None:
        return None
    return tuple(dim if isinstance(dim, int) and dim >= 0 else None for dim in known)


Constants = dict[ir.Value, np.ndarray[Any, Any]]


def _constants(module: Module) -> Constants:
    """Return the small tensors of a module."""
    found: Constants = {}
    for graph in nested_graphs(module.graph):
        for value in graph.initializers.values():
            if value.const_value is not None and _is_small(value.const_value):
                found[value] = value.const_value.numpy()
        for node in graph:
            if is_constant(node) and _is_small(constant_tensor(node)):
                found[node.outputs[0]] = constant_tensor(node).numpy()
    return found


def _is_small(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and tensor.size <= _LARGEST


def _fold(module: Module, constants: Constants) -> bool:
    """Turn what can be evaluated by now into initializers; say whether something was."""
    changed = False
    for graph in nested_graphs(module.graph):
        for node in list(graph):
            result = None if is_constant(node) else _evaluate(node, constants, module.opset)
            if result is None or node.outputs[0].is_graph_output():
                continue
            constant = _initializer(graph, f"{node.outputs[0].name}/folded", result)
            node.outputs[0].replace_all_uses_with(constant)
            graph.remove(node, safe=True)
            constants[constant] = result
            changed = True
    return changed


def _take_branches(module: Module, constants: Constants) -> bool:
    """Put the branch that is taken in the place of every `If` whose condition is constant by now."""
    changed = False
    for graph in list(nested_graphs(module.graph)):
        for node in list(graph):
            condition = node.inputs[0] if node.op_type == "If" and node.domain == "" else None
            if condition is None or condition not in constants:
                continue
            name = "then_branch" if constants[condition].reshape(-1)[0] else "else_branch"
            branch = node.attributes[name].as_graph()
            results = list(branch.outputs)
            branch.outputs.clear()
            for value in list(branch.initializers.values()):
                branch.initializers.pop(value.name or "")
                graph.initializers.add(value)
            for inner in list(branch):
                branch.remove(inner)
                graph.insert_before(node, inner)
            for old, new in zip(node.outputs, results, strict=True):
                old.replace_all_uses_with(new, replace_graph_outputs=True)
            graph.remove(node)
            changed = True
    return changed


def _initializer(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        shape=ir.Shape(array.shape),
        const_value=ir.tensor(array, name=name),
    )
    graph.initializers.add(value)
    return value


def _evaluate(node: ir.Node, constants: Constants, opset: int) -> np.ndarray[Any, Any] | None:
    if node.domain != "" or node.op_type not in _FOLDABLE or len(node.outputs) != 1:
        return None
    if node.op_type in ("Shape", "Size"):
        known = _known(node.inputs[0]) if node.inputs[0] is not None else None
        if known is None or None in known:
            return None
        size = np.array([dim for dim in known if dim is not None], dtype=np.int64)
        if node.op_type == "Size":
            return np.array(size.prod(), dtype=np.int64)
        start = node.attributes.get_int("start", 0)
        end = node.attributes.get_int("end", len(size))
        return size[start:end]
    feeds = [None if value is None else constants.get(value) for value in node.inputs]
    if any(fed is None and value is not None for fed, value in zip(feeds, node.inputs, strict=True)):
        return None
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = ["" if value is None else f"i{index}" for index, value in enumerate(node.inputs)]
    proto = ir.serde.serialize_node(node)
    del proto.input[:]
    proto.input.extend(names)
    if node.op_type == "ConstantOfShape" and feeds[0] is not None and feeds[0].prod() > _LARGEST:
        return None
    try:
        graph = helper.make_graph(
            [proto],
            "fold",
            [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(f.dtype), f.shape)
             for n, f in zip(names, feeds, strict=True) if f is not None],
            [helper.make_empty_tensor_value_info(proto.output[0])],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        fed = {name: value for name, value in zip(names, feeds, strict=True) if value is not None}
        results: Any = ReferenceEvaluator(model).run(None, fed)
    except Exception:  # noqa: BLE001  what can't be evaluated stays unknown
        return None
    result = np.asarray(results[0])
    return result if result.size <= _LARGEST else None
