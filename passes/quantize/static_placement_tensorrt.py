"""Which units to quantise for TensorRT: what feeds convolutions and products, and the other side of a residual sum.

TensorRT fuses DequantizeLinear → Conv (→ Add → Relu) → QuantizeLinear into one int8 kernel, and moves a
QuantizeLinear by itself through what only moves or selects elements (pools by maximum, Reshape, Concat). What its
documentation asks of a graph (Work with quantized types, Q/DQ placement recommendations) is done here:

- all inputs of weighted operators are quantised, their outputs are not: a Q behind them is the next reader's;
- of a sum with a convolution's result the other operand is quantised, too, so that the sum is fused behind the
  convolution and the residual stream is kept in bytes; the convolution's own result stays as it is;
- activation functions, products of two activations, Softmax and normalisations stay in the graph's precision, where
  TensorRT fuses them with their neighbours; a table of measured costs, as onnxruntime needs, has no part in it.

Squeeze-and-excite convolutions over one pixel stay float: they take no time, and a Q/DQ pair would be a kernel more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
from mopt.passes.quantize.static_placement import Placement
from mopt.passes.quantize.static_units import Unit
from mopt.rewrite.constants import constant_array

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_WEIGHTED = (*_CONVOLUTIONS, "Gemm", "MatMul")


class InputPlacement(Placement):
    """Units whose inputs are put on bytes, never their results."""

    def on_grid(self, value: ir.Value) -> Unit | None:
        """Return None: no unit gives bytes."""
        del value
        return None


def place_for_tensorrt(units: Sequence[Unit], shapes: Mapping[str, tuple[int, ...]], left: set[str]) -> InputPlacement:
    """Return the units to quantise.

    Args:
        units: all that can be, in topological order.
        shapes: of the values, as calibration saw them.
        left: names of units that stay in float.
    """
    chosen = []
    wanted = [unit for unit in units if unit.name not in left]
    depths = _depths(wanted[0].node.graph) if wanted and wanted[0].node.graph is not None else {}
    for unit in wanted:
        operator = unit.node.op_type
        if operator in _WEIGHTED:
            if operator not in _CONVOLUTIONS or not _one_pixel(unit, shapes):
                chosen.append(unit)
        elif operator == "Add":
            residual = _residual(unit, shapes, depths)
            if residual is not None:
                chosen.append(replace(unit, inputs=(residual,)))
    return InputPlacement(chosen)


def _one_pixel(unit: Unit, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    shape = shapes.get(unit.inputs[0].name or "", ())
    return len(shape) > 2 and all(size == 1 for size in shape[2:])


def _residual(unit: Unit, shapes: Mapping[str, tuple[int, ...]], depths: Mapping[ir.Value, int]) -> ir.Value | None:
    """Return the operand of a sum that is not the convolution it is fused behind; None where there is no such sum.

    Of two convolutions the deeper one is computed last, and the sum is fused behind it.
    """
    operands = [value for value in unit.node.inputs if value is not None and constant_array(value) is None]
    if len(operands) != 2 or operands[0] is operands[1]:
        return None
    one, two = (shapes.get(value.name or "") for value in operands)
    if one is None or one != two:
        return None
    fused = [value for value in operands if _alone_from_convolution(value)]
    if not fused:
        return None
    behind = max(fused, key=lambda value: depths.get(value, 0))
    return operands[0] if behind is operands[1] else operands[1]


def _alone_from_convolution(value: ir.Value) -> bool:
    producer = value.producer()
    return (
        producer is not None
        and producer.op_type in _CONVOLUTIONS
        and len(value.uses()) == 1
        and not value.is_graph_output()
    )


def _depths(graph: ir.Graph | ir.Function) -> dict[ir.Value, int]:
    """Return for each value the nodes on the longest way to it from the inputs."""
    depths: dict[ir.Value, int] = {}
    for node in graph:
        depth = 1 + max((depths.get(value, 0) for value in node.inputs if value is not None), default=0)
        depths.update(dict.fromkeys(node.outputs, depth))
    return depths
