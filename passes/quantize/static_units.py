"""What can be quantised: units of one operator and the neighbours that onnxruntime runs as one with it.

A unit reads activations, and gives one value that lies on a grid, or a float one. onnxruntime's CPU provider has
integer kernels for the operators below, which it puts in place of DequantizeLinear → operator → QuantizeLinear:
QLinearConv, QGemm, MatMulIntegerToFloat (a MatMul whose result stays float), QLinearAdd, QLinearMul,
QLinearConcat, QLinearAveragePool, QLinearGlobalAveragePool, QLinearSigmoid, QLinearLeakyRelu, and for what only
moves elements the operator itself on bytes. A Relu or Clip before a QuantizeLinear whose grid ends where it does
is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

Kind = Literal["conv", "matmul", "gemm", "elementwise", "pool", "unary", "concat", "move", "hardswish"]

_KINDS: Final[dict[str, Kind]] = {
    "Conv": "conv", "MatMul": "matmul", "Gemm": "gemm", "Add": "elementwise", "Mul": "elementwise",
    "GlobalAveragePool": "pool", "AveragePool": "pool", "Sigmoid": "unary", "LeakyRelu": "unary", "Concat": "concat",
    "MaxPool": "move", "Reshape": "move", "Flatten": "move", "Transpose": "move", "Squeeze": "move",
    "Unsqueeze": "move", "Resize": "move", "Slice": "move", "DepthToSpace": "move", "SpaceToDepth": "move",
}  # fmt: skip

_RANGES: Final = (
    "Softmax", "LogSoftmax", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "BatchNormalization", "LpNormalization", "Attention",
)  # fmt: skip
"""What computes with ratios of a tensor's elements: bytes have too few steps for it, and no kernel here takes them."""

WEIGHTED: Final = ("conv", "matmul", "gemm")


@dataclass(frozen=True)
class Unit:
    """One operator to be quantised.

    Attributes:
        kind: which family of integer kernels runs it.
        node: the operator.
        inputs: the activations it reads.
        output: the value that carries its grid (behind a folded Relu or Clip), before `shift`.
        folded: the Relu or Clip behind it, the HardSigmoid of a hard swish, the Add of a shift.
        shift: a constant that is added to its result by giving DequantizeLinear another zero point.
        shifted: the value after the shift.
        limits: what a folded Relu or Clip keeps the result within.
    """

    kind: Kind
    node: ir.Node
    inputs: tuple[ir.Value, ...]
    output: ir.Value
    folded: tuple[ir.Node, ...] = ()
    shift: float = 0.0
    shifted: ir.Value | None = None
    limits: tuple[float, float] | None = None
    weight: NDArray[Any] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.node.name or ""

    @property
    def result(self) -> ir.Value:
        """What readers see: the output, behind the shift where there is one."""
        return self.shifted if self.shifted is not None else self.output


def find_units(module: Module, *, regrid: bool) -> tuple[list[Unit], dict[str, list[ir.Node]]]:
    """Return the units of the main graph in topological order, and the weighted nodes left out, by reason.

    Args:
        regrid: bytes may be read on another grid than they were written on (hard swishes, shifts). onnxruntime
            keeps that for unsigned bytes alone: signed ones it turns into unsigned, where both grids are one.
    """
    units: list[Unit] = []
    left: dict[str, list[ir.Node]] = {}
    taken: set[ir.Node] = set()
    for node in module.graph:
        if node in taken or node.domain != "":
            continue
        found = (_hardswish(node) if regrid else None) or _unit(node)
        if isinstance(found, str):
            left.setdefault(f"{node.op_type}: {found}", []).append(node)
        elif found is not None:
            found = _folded(found)
            found = _shifted(found) if regrid else found
            taken.update((found.node, *found.folded))
            units.append(found)
    return units, left


def _unit(node: ir.Node) -> Unit | str | None:
    kind = _KINDS.get(node.op_type)
    if kind is None:
        return "it works on ratios of its elements, for which bytes are too coarse" if node.op_type in _RANGES else None
    inputs = [value for value in node.inputs if value is not None]
    if kind in WEIGHTED:
        return _weighted(kind, node)
    read = inputs[:1] if kind not in ("elementwise", "concat") else [v for v in inputs if constant_array(v) is None]
    constants = [constant_array(v) for v in inputs] if kind in ("elementwise", "concat") else []
    if not read or any(not _is_float(value) for value in (*read, node.outputs[0])):
        return None
    if any(array is not None and not np.isfinite(array).all() for array in constants):
        return None
    if any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return None
    if node.op_type == "AveragePool" and ("dilations" in node.attributes or node.attributes.get("ceil_mode")):
        return None
    if node.op_type == "Resize" and "mode" in node.attributes and node.attributes["mode"].as_string() != "nearest":
        return None
    return Unit(kind, node, tuple(read), node.outputs[0])


def _weighted(kind: Kind, node: ir.Node) -> Unit | str:
    weight = constant_array(node.inputs[1]) if len(node.inputs) > 1 else None
    first = node.inputs[0]
    if weight is None or first is None:
        return "its weight is computed by the graph" if constant_array(first) is None else "its weight comes first"
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype.name}; quantise before converting to another precision"
    bias = node.inputs[2] if kind != "matmul" and len(node.inputs) > 2 else None
    if bias is not None and constant_array(bias) is None:
        return "its bias is computed by the graph"
    if kind == "matmul" and weight.ndim != 2:
        return "its weight is no matrix"
    if kind == "gemm":
        attributes = node.attributes
        if attributes.get("transA") is not None and attributes["transA"].as_int():
            return "its left operand is transposed"
        if any(name in attributes and attributes[name].as_float() != 1.0 for name in ("alpha", "beta")):
            return "it scales its operands"
        if bias is not None and bias.shape is not None and len(bias.shape) != 1:
            return "its bias is no vector"
    return Unit(kind, node, (first,), node.outputs[0], weight=weight)


def _hardswish(node: ir.Node) -> Unit | None:
    """Match x · HardSigmoid(x) with alpha = 1/6, beta = 1/2, or HardSwish, whose argument nothing else reads."""
    if node.op_type == "HardSwish":
        argument = node.inputs[0]
        return (
            None
            if argument is None or not _only(argument, 1)
            else Unit("hardswish", node, (argument,), node.outputs[0])
        )
    if node.op_type != "HardSigmoid" or not _only(node.outputs[0], 1):
        return None
    alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 0.2
    beta = node.attributes["beta"].as_float() if "beta" in node.attributes else 0.5
    argument, (usage,) = node.inputs[0], node.outputs[0].uses()
    product, members = usage.node, (node,)
    if (
        abs(alpha - 1 / 6) > 1e-4
        or abs(beta - 0.5) > 1e-4
        or product.op_type != "Mul"
        or product.graph is not node.graph
    ):
        return None
    if argument is None or argument not in product.inputs or not _only(argument, 2) or not _is_float(argument):
        return None
    return Unit("hardswish", product, (argument,), product.outputs[0], members)


def _folded(unit: Unit) -> Unit:
    """Take in a Relu, or a Clip that lets zero pass, that alone reads the result."""
    if unit.kind in ("matmul", "hardswish", "move") or not _only(unit.output, 1):
        return unit
    (usage,) = unit.output.uses()
    node = usage.node
    if node.graph is not unit.node.graph or usage.idx != 0:
        return unit
    limits = None
    if node.op_type == "Relu":
        limits = (0.0, np.inf)
    elif node.op_type == "Clip":
        ends = [constant_array(value) if value is not None else None for value in (*node.inputs[1:], None, None)[:2]]
        fixed = [
            value is None or end is not None for value, end in zip((*node.inputs[1:], None, None), ends, strict=False)
        ]
        low = -np.inf if ends[0] is None else float(ends[0])
        high = np.inf if ends[1] is None else float(ends[1])
        if all(fixed) and low <= 0 <= high:
            limits = (low, high)
    if limits is None:
        return unit
    return Unit(
        unit.kind, unit.node, unit.inputs, node.outputs[0], (*unit.folded, node), limits=limits, weight=unit.weight
    )


def _shifted(unit: Unit) -> Unit:
    """Take in the addition of one number that alone reads the result: another zero point does it."""
    if unit.kind in ("matmul", "move") or not _only(unit.output, 1):
        return unit
    (usage,) = unit.output.uses()
    node = usage.node
    if node.op_type != "Add" or node.graph is not unit.node.graph:
        return unit
    array = constant_array(node.inputs[1 - usage.idx])
    if array is None or array.size != 1 or not np.isfinite(array).all() or float(array.reshape(-1)[0]) == 0:
        return unit
    if array.ndim and unit.output.shape is not None and array.ndim > len(unit.output.shape):
        return unit
    return Unit(
        unit.kind, unit.node, unit.inputs, unit.output, (*unit.folded, node), float(array.reshape(-1)[0]),
        node.outputs[0], unit.limits, unit.weight,
    )  # fmt: skip


def _only(value: ir.Value, readers: int) -> bool:
    return len(value.uses()) == readers and not value.is_graph_output()


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (None, ir.DataType.FLOAT)
