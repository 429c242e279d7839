"""QuantizeLinear and DequantizeLinear as fake quantisers, through which gradients pass.

A pair on one grid is a `FakeQuantizer` that rounds to the grid and passes the gradient straight through inside its
range, none outside (Bengio et al. 2013; Jacob et al. 2018). Integers that are moved, pooled or cut between the two are
carried as whole floats. A weight stored as integers behind a DequantizeLinear becomes a float parameter on that grid,
and is stored as integers again when it is written back.

Any quantiser of `runner.quantizers` may be replaced by another one with the same methods (one that learns its grid,
say), which may start from the old one's `scale` and `zero_point`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import onnx_ir as ir
import torch
from mopt.ir import Module, Weight
from mopt.runtime.trainable.compiling import Override
from mopt.runtime.trainable.fake_quantizer import FakeQuantizer, Grid, dequantized
from mopt.runtime.trainable.gradient_path import differentiable
from mopt.runtime.trainable.tensors import TORCH_DTYPES, of_tensor
from mopt.runtime.trainable.weights import Leaf, Store, readers_of
from torch import nn

RANGES: Final = {
    ir.DataType.INT8: (-128, 127), ir.DataType.UINT8: (0, 255),
    ir.DataType.INT16: (-32768, 32767), ir.DataType.UINT16: (0, 65535),
    ir.DataType.INT4: (-8, 7), ir.DataType.UINT4: (0, 15), ir.DataType.INT2: (-2, 1), ir.DataType.UINT2: (0, 3),
    ir.DataType.INT32: (-(2**31), 2**31 - 1),
}  # fmt: skip
"""Element type → its smallest and largest integer."""

_DOMAINS: Final = ("", "com.microsoft")
_CARRIERS: Final = frozenset(
    {"Clip", "Concat", "Flatten", "Gather", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Split", "Squeeze",
     "Transpose", "Unsqueeze"}
)  # fmt: skip
"""Operators that give nothing but elements of their inputs, or limits of their own."""


@dataclass(frozen=True)
class Record:
    """Where a quantiser stands in the graph.

    Attributes:
        quantizer: its name in `runner.quantizers`.
        nodes: names of the nodes it is.
        dtype: the integers' element type.
        weight: the weight that is stored on its grid; None if it quantises what the network computes.
        parameter: the parameter that the weight became.
    """

    quantizer: str
    nodes: tuple[str, ...]
    dtype: ir.DataType
    weight: str | None = None
    parameter: str | None = None


@dataclass
class Plan:
    """The quantisers of a module, and what they replace."""

    modules: dict[str, nn.Module] = field(default_factory=dict)
    overrides: dict[ir.Node, Override] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)

    def add(self, name: str, quantizer: FakeQuantizer) -> str:
        """Register a quantiser under a name that torch accepts."""
        safe = re.sub(r"\W", "_", name) or "_"
        while safe in self.modules or hasattr(nn.ModuleDict, safe):
            safe += "_"
        self.modules[safe] = quantizer
        return safe


def plan(module: Module, store: Store, taken: dict[str, ir.Value]) -> Plan:
    """Find the quantisers of a module; weights on a grid go into the store, and are taken."""
    made = Plan()
    weights = {weight.value: weight for weight in module.weights()}
    reached = differentiable(module)
    pairs: dict[tuple[ir.Value, bytes], tuple[str, str]] = {}
    ambiguous = _on_two_grids(module, weights)
    for node in module.nodes():
        if node.domain not in _DOMAINS:
            continue
        if node.op_type == "DequantizeLinear" and node.inputs[0] in ambiguous:
            continue
        if node.op_type == "DequantizeLinear" and node.inputs[0] in weights:
            _weight(node, weights, reached, store, made, taken, pairs)
        elif node.op_type == "QuantizeLinear":
            _activation(node, weights, made)
    return made


def _on_two_grids(module: Module, weights: Mapping[ir.Value, Weight]) -> set[ir.Value]:
    """Return the integers that are read on more than one grid: none says what the weight is; they stay constants."""
    grids: dict[ir.Value, set[bytes | None]] = {}
    for node in module.nodes():
        source = node.inputs[0] if node.inputs else None
        if node.domain in _DOMAINS and node.op_type == "DequantizeLinear" and source is not None and source in weights:
            stored = weights[source]
            grid = _grid(node, weights, stored.tensor.dtype)
            grids.setdefault(stored.value, set()).add(None if grid is None else grid.key)
    return {value for value, found in grids.items() if len(found) > 1}


def _weight(
    node: ir.Node,
    weights: Mapping[ir.Value, Weight],
    reached: set[ir.Value],
    store: Store,
    made: Plan,
    taken: dict[str, ir.Value],
    pairs: dict[tuple[ir.Value, bytes], tuple[str, str]],
) -> None:
    stored = weights[node.inputs[0]]  # type: ignore[index]
    output = node.outputs[0]
    grid = _grid(node, weights, stored.tensor.dtype)
    if grid is None or output not in reached or stored.tensor.dtype not in RANGES:
        return
    key = (stored.value, grid.key)
    if key not in pairs:
        content = of_tensor(stored.tensor)
        assert isinstance(content, torch.Tensor)
        quantizer = FakeQuantizer(grid)
        safe = store.parameter(stored.name, quantizer.reals(content).float(), readers_of(output))
        pairs[key] = (safe, made.add(stored.name, quantizer))
        made.records.append(Record(pairs[key][1], (node.name or "",), stored.tensor.dtype, stored.name, safe))
        taken[stored.name] = stored.value
    parameter, name = pairs[key]
    dtype = TORCH_DTYPES[output.dtype or ir.DataType.FLOAT]
    store.leaves[output] = Leaf(
        (("quantizer", name), ("weight", parameter)),
        lambda quantizer, weight: quantizer(weight).to(dtype),
        f"weight `{stored.name}`",
    )


def _activation(node: ir.Node, weights: Mapping[ir.Value, Weight], made: Plan) -> None:
    x, bytes_ = node.inputs[0], node.outputs[0]
    dtype = bytes_.dtype or (weights[node.inputs[2]].tensor.dtype if _third(node) in weights else ir.DataType.UINT8)  # type: ignore[index]
    readers = _readers(bytes_)
    if x is None or readers is None or dtype not in RANGES or (x in weights and weights[x].tensor.dtype in RANGES):
        return
    grid = _grid(node, weights, dtype)
    if grid is None:
        return
    name = made.add(bytes_.name or node.name or "", FakeQuantizer(grid))
    part, nodes = ("quantizer", name), [node.name or ""]
    made.overrides[node] = Override(lambda quantizer, real: quantizer.integers(real), (part, x))
    for reader in readers:
        other = _grid(reader, weights, dtype)
        if reader.inputs[0] is bytes_ and other is not None and other.key == grid.key:
            made.overrides[reader] = Override(lambda quantizer, real: quantizer(real), (part, x))
            nodes.append(reader.name or "")
        elif other is not None:
            carried = reader.inputs[0]
            assert carried is not None
            rest = tuple(value for value in reader.inputs[1:] if value is not None)
            made.overrides[reader] = Override(dequantized(other), (carried, *rest))
    made.records.append(Record(name, tuple(nodes), dtype))


def _third(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _readers(value: ir.Value) -> list[ir.Node] | None:
    """Return the DequantizeLinear nodes that integers end in; None if something else computes with them."""
    found: list[ir.Node] = []
    stack, seen = [value], {value}
    while stack:
        at = stack.pop()
        if at.is_graph_output():
            return None
        for usage in at.uses():
            node = usage.node
            if node.op_type == "DequantizeLinear" and usage.idx == 0:
                found.append(node)
            elif node.op_type in _CARRIERS and (usage.idx == 0 or node.op_type == "Concat"):
                if node.op_type == "Concat" and not all(_is_carried(part) for part in node.inputs):
                    return None
                for output in node.outputs[:1] if node.op_type == "MaxPool" else node.outputs:
                    if output not in seen:
                        seen.add(output)
                        stack.append(output)
            else:
                return None
    return found


def _is_carried(value: ir.Value | None) -> bool:
    """Say whether a value goes back to QuantizeLinear nodes through operators that carry integers."""
    producer = None if value is None else value.producer()
    if producer is None:
        return False
    if producer.op_type == "QuantizeLinear":
        return True
    return producer.op_type in _CARRIERS and _is_carried(producer.inputs[0])


def _grid(node: ir.Node, weights: Mapping[ir.Value, Weight], dtype: ir.DataType) -> Grid | None:
    """Return the grid of a node whose scale and zero point are constants of a type that integers have."""
    scale, zero = node.inputs[1], _third(node)
    if scale not in weights or (zero is not None and zero not in weights) or dtype not in RANGES:
        return None
    scales = of_tensor(weights[scale].tensor)  # type: ignore[index]
    zeros = None if zero is None else of_tensor(weights[zero].tensor)
    assert isinstance(scales, torch.Tensor)
    if zeros is not None and not isinstance(zeros, torch.Tensor):
        return None
    low, high = RANGES[dtype]
    axis, block = node.attributes.get("axis"), node.attributes.get("block_size")
    return Grid(
        scales.float(),
        torch.zeros(scales.shape, dtype=torch.int32) if zeros is None else zeros.to(torch.int32),
        low,
        high,
        1 if axis is None else axis.as_int(),
        0 if block is None else block.as_int(),
    )
