"""A module on its way to an opaque tool and back: without its large weights, and with its provenance restored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from mopt.analysis.codebook import codebooks
from mopt.ir import Module, from_proto, to_proto, verify
from mopt.ir.interface import interface_changes, interface_of
from mopt.ir.provenance import inherit
from mopt.passes.simplify.tools.process import ToolError
from mopt.rewrite.constants import stored_tensor, uniform_fill


@dataclass(frozen=True)
class Parcel:
    """A module as a tool gets it.

    Attributes:
        data: the serialised model, in which every lifted weight is an input.
        lifted: the weights that stayed behind, by name.
        fills: the compressed constants that stayed behind, by name: sizes and fill.
    """

    data: bytes
    lifted: dict[str, ir.TensorProtocol]
    fills: dict[str, tuple[ir.TensorProtocol, ir.TensorProtocol]]


def pack(module: Module, lift_above: int) -> Parcel:
    """Serialise a module without its weights of more than `lift_above` bytes.

    Only weights of the main graph are lifted: a graph inside a node has no inputs to put in their place. So are
    constants that a `ConstantOfShape` describes: a tool would write them out.
    """
    light = module.clone()
    lifted: dict[str, ir.TensorProtocol] = {}
    # A tool would look a small codebook's indices up, and so write the clustered weight out.
    indices = {book.indices for book in codebooks(light)}
    for name, value in list(light.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or value.is_graph_input() or value.is_graph_output():
            continue
        if tensor.nbytes <= lift_above and value not in indices:
            continue
        lifted[name] = tensor
        del light.graph.initializers[name]
        value.const_value = None
        value.type = ir.TensorType(tensor.dtype)
        value.shape = ir.Shape(tensor.shape.numpy())
        light.graph.inputs.append(value)
    fills = _lift_fills(light.graph, lift_above)
    # Weights may lie in files (a snapshot's do): the tool gets them in the model itself.
    return Parcel(to_proto(light, provenance=True).SerializeToString(), lifted, fills)


def _lift_fills(graph: ir.Graph, lift_above: int) -> dict[str, tuple[ir.TensorProtocol, ir.TensorProtocol]]:
    found: dict[str, tuple[ir.TensorProtocol, ir.TensorProtocol]] = {}
    for node in list(graph):
        fill = uniform_fill(node.outputs[0]) if node.op_type == "ConstantOfShape" else None
        output, sizes = node.outputs[0], stored_tensor(node.inputs[0]) if node.inputs else None
        if fill is None or sizes is None or output.is_graph_output() or not output.name:
            continue
        shape, element = fill
        if int(np.prod(shape, dtype=np.int64)) * element.itemsize <= lift_above:
            continue
        stand_in = ir.Value(name=output.name, shape=ir.Shape(shape))
        stand_in.type = ir.TensorType(ir.DataType.from_numpy(element.dtype))
        output.name = None
        for use in list(output.uses()):
            use.node.replace_input_with(use.idx, stand_in)
        graph.remove(node, safe=True)
        graph.inputs.append(stand_in)
        found[str(stand_in.name)] = (sizes, ir.tensor(element))
    return found


def answered_nodes(data: bytes) -> int:
    """Count the nodes in a tool's answer, without constants, before anything else is done with it.

    Raises:
        ToolError: the answer is no model.
    """
    try:
        return _count(onnx.load_model_from_string(data).graph)
    except DecodeError as error:
        raise ToolError(f"it wrote a model that can't be read: {error}") from error


def _count(graph: onnx.GraphProto) -> int:
    total = 0
    for node in graph.node:
        total += node.op_type != "Constant"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                total += _count(attribute.g)
    return total


def unpack(data: bytes, parcel: Parcel, before: Module, by: str) -> Module:
    """Turn a tool's answer into a module with all weights and with provenance, and check its structure.

    Raises:
        ToolError: the answer is no valid model, or another interface than the module sent.
    """
    try:
        proto = onnx.load_model_from_string(data)
        # Operands of the wrong rank or type: cheaper to find here than by loading the model.
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
    except Exception as error:  # whatever the inference of some operator raises
        raise ToolError(f"it wrote an invalid graph: {_first_line(error)}") from error
    try:
        module = from_proto(proto)
    except Exception as error:  # whatever the bytes do to the parsers
        raise ToolError(f"it wrote a model that can't be read: {_first_line(error)}") from error
    inputs = {value.name: value for value in module.graph.inputs}
    for name, tensor in parcel.lifted.items():
        value = inputs.get(name)
        if value is None:
            continue
        module.graph.inputs.remove(value)
        if value.uses():
            value.const_value = tensor
            module.graph.register_initializer(value)
    for name, (sizes, element) in parcel.fills.items():
        value = inputs.get(name)
        if value is not None:
            module.graph.inputs.remove(value)
            _refill(module.graph, value, sizes, element)
    module.touch()
    changes = interface_changes(interface_of(before), interface_of(module))
    if changes:
        raise ToolError(f"it changed the interface: {changes[0]}")
    violations = verify(module)
    if violations:
        raise ToolError(f"it wrote an invalid graph: {violations[0].message}")
    hand_on_provenance(before, module, by)
    return module


def _refill(graph: ir.Graph, value: ir.Value, sizes: ir.TensorProtocol, element: ir.TensorProtocol) -> None:
    name, value.name = value.name, f"{value.name}_input"
    if not value.uses():
        return
    operand = ir.Value(
        name=f"{name}_sizes_lifted", type=ir.TensorType(sizes.dtype), shape=ir.Shape(sizes.shape.numpy())
    )
    operand.const_value = sizes
    graph.register_initializer(operand)
    output = ir.Value(name=name, type=value.type, shape=value.shape)
    node = ir.Node("", "ConstantOfShape", [operand], [ir.AttrTensor("value", element)], outputs=[output], name=name)
    first = next(iter(graph))
    graph.insert_before(first, node)
    for use in list(value.uses()):
        use.node.replace_input_with(use.idx, output)


def hand_on_provenance(before: Module, after: Module, by: str) -> None:
    """Give the nodes of a rewritten module the origins of the nodes they came from.

    A node whose first output has a name that the old graph knows, is that node (changed, if its operator or inputs
    differ). Any other stands for the old nodes that are gone and that led to the same named results.
    """
    old = {output.name: node for node in before.nodes() for output in node.outputs if output.name}
    fresh: list[ir.Node] = []
    kept: set[ir.Node] = set()
    for node in after.nodes():
        match = next((old[output.name] for output in node.outputs if output.name in old), None)
        if match is None:
            fresh.append(node)
            continue
        kept.add(match)
        node.metadata_props.update(match.metadata_props)
        if _signature(node) != _signature(match):
            inherit([node], [match], by)
    for node in fresh:
        sinks = _named_readers(node, old)
        lost = [source for sink in sinks for source in _gone_before(old[sink], kept)]
        inherit([node], lost or [old[sink] for sink in sinks], by)


def _signature(node: ir.Node) -> tuple[object, ...]:
    return node.op_type, tuple(value.name if value is not None else "" for value in node.inputs)


def _named_readers(node: ir.Node, known: dict[str, ir.Node]) -> list[str]:
    """Return the nearest results after a new node that have old names."""
    found: list[str] = []
    pending, seen = [node], {node}
    while pending:
        for reader in pending.pop().successors():
            names = [output.name for output in reader.outputs if output.name in known]
            if names:
                found.append(str(names[0]))
            elif reader not in seen:
                seen.add(reader)
                pending.append(reader)
    return found


def _gone_before(node: ir.Node, kept: set[ir.Node]) -> list[ir.Node]:
    """Return the old nodes that led to `node` and are gone, up to the nearest ones that are kept."""
    found: dict[ir.Node, None] = {}
    pending = [node]
    while pending:
        for source in pending.pop().predecessors():
            if source not in kept and source not in found:
                found[source] = None
                pending.append(source)
    return list(found)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
