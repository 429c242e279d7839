"""Writing a placement into the graph: QuantizeLinear and DequantizeLinear around every unit, weights as int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.passes.quantize.calibration_histogram import Histogram
from mopt.passes.quantize.dynamic_graph import Editor
from mopt.passes.quantize.static_grids import HARD, LEAST, Grid, grids, levels
from mopt.passes.quantize.static_placement import Placement
from mopt.passes.quantize.static_units import WEIGHTED, Unit
from mopt.passes.quantize.static_weights import quantize_weight
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static

BY = "quantize.static"
FLOAT = ir.DataType.FLOAT
BYTES = {
    "uint8": ir.DataType.UINT8, "int8": ir.DataType.INT8, "uint16": ir.DataType.UINT16, "int16": ir.DataType.INT16,
}  # fmt: skip


class Writer(Editor):
    """Quantises the units of a placement in place.

    Args:
        errors: what rounding adds to each channel of a value on average, by its name: biases take it off.

    Attributes:
        elements: how many weights were stored as int8.
    """

    def __init__(
        self,
        module: Module,
        placement: Placement,
        tensors: Mapping[str, Histogram],
        options: Static,
        errors: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> None:
        super().__init__(module, signed=True)
        self._placement, self._tensors, self._options = placement, tensors, options
        self._grids = grids(placement, tensors, options)
        self._errors = errors or {}
        self._bytes: dict[ir.Value, ir.Value] = {}
        self._reals: dict[ir.Value, ir.Value] = {}
        self._stored: dict[tuple[str, int | None, bytes], tuple[ir.Value, ir.Value]] = {}

    def write(self) -> None:
        """Rewrite the graph."""
        units = self._placement.units
        made = {unit.result: unit for unit in units if self._placement.on_grid(unit.result) is not None}
        for unit in units:
            for value in unit.inputs:
                if value not in made and value not in self._reals:
                    self._quantize_input(value, unit)
            if unit.result in made:
                self._quantize_result(unit)
        for unit in units:
            self._rewrite(unit)
        self._clear()
        self.module.touch()

    def _quantize_input(self, value: ir.Value, reader: Unit) -> None:
        """Put a float value on bytes, for the units that read it alone."""
        grid, producer = self._grids[value], value.producer()
        q, real = self._pair(value, grid, reader.node, value.shape)
        if producer is not None:
            graph = producer.graph
            assert graph is not None
            graph.insert_after(producer, [q, real])
        else:
            graph = self.module.graph
            graph.insert_before(next(iter(graph)), [q, real])
        self._bytes[value], self._reals[value] = q.outputs[0], real.outputs[0]

    def _quantize_result(self, unit: Unit) -> None:
        """Put what a unit gives on bytes; every reader and the graph's outputs get it back from there."""
        result, output = unit.result, unit.output
        grid, last = self._grids[result], output.producer()
        assert last is not None and last.graph is not None
        q, real = self._pair(output, grid, unit.node, result.shape)
        found = real.outputs[0]
        uses = [usage for usage in result.uses() if usage.node is not q]
        if result.is_graph_output():
            name = result.name
            result.name = found.name
            found.name = name
            found.type = result.type
            for index, value in enumerate(last.graph.outputs):
                if value is result:
                    last.graph.outputs[index] = found
        for usage in uses:
            usage.node.replace_input_with(usage.idx, found)
        last.graph.insert_after(last, [q, real])
        if unit.shifted is not None:
            producer = result.producer()
            assert producer is not None
            last.graph.remove(producer, safe=True)
        self._bytes[result], self._reals[result] = q.outputs[0], found

    def _pair(self, value: ir.Value, grid: Grid, source: ir.Node, shape: ir.Shape | None) -> tuple[ir.Node, ir.Node]:
        scale = self.constant(np.array(grid.scale, np.float32), "scale")
        dtype = BYTES[grid.dtype]
        ends = [self.constant(np.array(zero, grid.dtype), "zero_point") for zero in (grid.zero_point, grid.seen)]
        label = value.name or ""
        q = self._node("QuantizeLinear", [value, scale, ends[0]], f"{label}_quantized", (dtype,), shape, None, "")
        real = self._node(
            "DequantizeLinear", [q.outputs[0], scale, ends[1]], f"{label}_dequantized", (FLOAT,), shape, None, ""
        )
        provenance.inherit([q, real], [source], BY)
        return q, real

    def _rewrite(self, unit: Unit) -> None:
        node = unit.node
        for index, value in enumerate(node.inputs):
            if value in unit.inputs and value in self._reals and value in self._grids:
                node.replace_input_with(index, self._reals[value])
        provenance.inherit([node], [node], BY)
        if unit.kind in WEIGHTED:
            self._rewrite_weighted(unit)
        elif unit.kind == "hardswish":
            self._rewrite_hardswish(unit)
        elif unit.kind in ("elementwise", "concat"):
            for index, value in enumerate(node.inputs):
                array = constant_array(value)
                if array is not None:
                    node.replace_input_with(index, self._constant_operand(node, array, value))

    def _rewrite_weighted(self, unit: Unit) -> None:
        node, options, source = unit.node, self._options, unit.inputs[0]
        bias_value = node.inputs[2] if unit.kind != "matmul" and len(node.inputs) > 2 else None
        x_scale = self._grids[source].scale
        means = self._tensors[source.name or ""].mean() if options.bias_correction else None
        found = quantize_weight(
            unit, constant_array(bias_value), x_scale, means, per_channel=options.per_channel,
            errors=self._errors.get(source.name or ""),
        )  # fmt: skip
        weight = node.inputs[1]
        assert weight is not None
        key = (weight.name or "", found.axis, found.scale.tobytes())
        if key not in self._stored:
            label = weight.name or node.name or ""
            self._stored[key] = (
                self.constant(found.values, f"{label}_quantized_{len(self._stored)}"),
                self.constant(found.scale, f"{label}_scale_{len(self._stored)}"),
            )
            self.elements += found.values.size
        values, scale = self._stored[key]
        zero = self.constant(np.zeros(found.scale.shape, np.int8), f"zeros_{found.scale.size}")
        node.replace_input_with(1, self._read_back(node, [values, scale, zero], found.axis, values.shape))
        if found.bias is None:
            return
        label = f"{node.name}_bias"
        if options.placement == "tensorrt" or options.activations.endswith("16"):
            # TensorRT takes no int32 and adds biases in float anyway; so does whatever runs 16-bit activations in
            # float, and steps as fine as theirs would want a bias of more bits.
            if bias_value is None:
                node.resize_inputs(3)
            node.replace_input_with(2, self.constant(found.bias.astype(np.float32), label))
            return
        scales = (found.scale * np.float32(x_scale)).astype(np.float32)
        content = np.clip(np.rint(found.bias.astype(np.float64) / scales), -(2**31), 2**31 - 1).astype(np.int32)
        scales = scales if found.axis is not None else scales.reshape(())
        inputs = [self.constant(content, label), self.constant(scales, f"{label}_scale")]
        real = self._read_back(node, inputs, None if found.axis is None else 0, ir.Shape(content.shape))
        if bias_value is None:
            node.resize_inputs(3)
        node.replace_input_with(2, real)

    def _rewrite_hardswish(self, unit: Unit) -> None:
        """Write x · clip(x / 6 + 1/2, 0, 1) on bytes.

        The smallest byte of x is -3, so that x / 6 + 1/2 = scale / 6 · (q - least) is the same bytes read on
        another grid; what exceeds 1 is cut by a Clip of the bytes.
        """
        argument = unit.inputs[0]
        grid, node = self._grids[argument], unit.node
        q, cut = self._bytes[argument], grid.least + 2 * (grid.seen - grid.least)
        label = f"{unit.output.name}_gate"
        if cut < grid.most:
            top = self.constant(np.array(cut, grid.dtype), "top")
            dtype = BYTES[grid.dtype]
            (q,) = self.insert(node, "Clip", [q, None, top], label=label, dtypes=(dtype,), shape=argument.shape)
        scale = self.constant(np.array(grid.scale / (2 * HARD), np.float32), "scale")
        least = self.constant(np.array(grid.least, grid.dtype), "zero_point")
        (gate,) = self.insert(node, "DequantizeLinear", [q, scale, least], label=label, shape=argument.shape)
        real = self._reals[argument]
        if node.op_type == "Mul":
            node.replace_input_with(0, real)
            node.replace_input_with(1, gate)
            (hard,) = unit.folded[:1]
            assert hard.graph is not None
            hard.graph.remove(hard, safe=True)
            return
        (product,) = self.insert(node, "Mul", [real, gate], label=unit.output.name or label, shape=unit.output.shape)
        self.replace(node, [product])

    def _constant_operand(self, node: ir.Node, array: NDArray[Any], value: ir.Value | None) -> ir.Value:
        """Quantise a constant operand over its own range; a single number exactly."""
        assert value is not None
        low, high = min(float(array.min()), 0.0), max(float(array.max()), 0.0)
        dtype = self._options.activations
        least = LEAST[dtype]
        most = least + levels(dtype)
        scale = np.float32((high - low) / (most - least) or 1.0)
        zero = int(np.clip(np.rint(least - low / scale), least, most))
        content = np.clip(np.rint(array / scale) + zero, least, most).astype(dtype)
        inputs = [
            self.constant(content, f"{value.name}_quantized"),
            self.constant(np.asarray(scale), "scale"),
            self.constant(np.array(zero, dtype), "zero_point"),
        ]
        return self._read_back(node, inputs, None, ir.Shape(array.shape))

    def _read_back(
        self, node: ir.Node, inputs: Sequence[ir.Value], axis: int | None, shape: ir.Shape | None
    ) -> ir.Value:
        attributes = {} if axis is None else {"axis": ir.AttrInt64("axis", axis)}
        (real,) = self.insert(
            node, "DequantizeLinear", inputs, label=f"{inputs[0].name}_real", shape=shape, attributes=attributes
        )
        return real

    def insert(
        self, before: ir.Node, operator: str, inputs: Sequence[ir.Value | None], **how: Any
    ) -> tuple[ir.Value, ...]:
        """Insert a node before another, with its provenance under this pass's name."""
        outputs = super().insert(before, operator, inputs, **how)
        made = outputs[0].producer()
        assert made is not None
        made.metadata_props.clear()
        provenance.inherit([made], [before], BY)
        return outputs

    def _clear(self) -> None:
        """Remove constants that nothing reads any more."""
        graph = self.module.graph
        for name, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                graph.initializers.pop(name)
        for node in list(graph):
            if node.op_type == "Constant" and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
                graph.remove(node, safe=True)
