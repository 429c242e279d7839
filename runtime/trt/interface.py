"""Single-precision interfaces: parts of a 16-bit graph hand their values on in float32, which every runtime takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.ir.module import Module


def single_interface(module: Module) -> Module:
    """Give a module's float16 and bfloat16 inputs and outputs float32, in place, with casts behind and before them."""
    import onnx_ir as ir

    graph, single = module.graph, ir.TensorType(ir.DataType.FLOAT)
    halves = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    for value in [value for value in graph.inputs if value.dtype in halves]:
        cast = _cast(value, f"{value.name}_narrow", value.type, value.dtype)
        value.replace_all_uses_with(cast.outputs[0])
        cast.replace_input_with(0, value)
        value.type = single
        graph.insert_before(graph[0], cast)
    for at, value in enumerate(graph.outputs):
        if value.dtype in halves:
            name = value.name
            value.name = f"{name}_narrow"
            cast = _cast(value, name, single, ir.DataType.FLOAT)
            graph.append(cast)
            graph.outputs[at] = cast.outputs[0]
    module.touch()
    return module


def _cast(source: ir.Value, name: str | None, to: ir.TypeProtocol | None, element: ir.DataType | None) -> ir.Node:
    import onnx_ir as ir

    assert element is not None
    output = ir.Value(name=name, type=to, shape=source.shape)
    return ir.Node("", "Cast", [source], [ir.AttrInt64("to", int(element))], outputs=[output], name=f"{name}/Cast")
