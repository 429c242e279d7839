"""Putting quantisers that learn their grids in place of a runner's fixed ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
import torch
from mopt.passes.quantize.aware_graph import GridWeight, Start
from mopt.passes.quantize.calibration_ranges import choose
from mopt.passes.quantize.static_grids import LEAST
from mopt.runtime.trainable.fake_quantizer import FakeQuantizer
from mopt.runtime.trainable.learned_quantizer import Learned
from mopt.runtime.trainable.observed_quantizers import FittedWeight, ObservedRange, best_step
from mopt.runtime.trainable.quantizers import Record
from mopt.runtime.trainable.tied_quantizers import BiasGrid, Moved
from mopt.runtime.training.hook import Hook

if TYPE_CHECKING:
    from mopt.passes.quantize.aware import Aware
    from mopt.runtime.trainable.runner import TrainableModule

_BIAS_LEVELS: Final = 2.0**30
_REFIT: Final = 50
"""Steps between two searches for `pact`'s weight steps."""


@dataclass
class Installed:
    """The quantisers of a network that learn.

    Attributes:
        weights: with the parameter that each rounds.
        activations: what follows or learns a range.
        biases: the parameter of each, with the quantisers of the input and the weight.
        narrow: the QuantizeLinear nodes whose integers need limits, with these limits.
        fixed: how many activations stay on the grid of calibration, because two grids share its bytes.
    """

    weights: list[tuple[Any, torch.Tensor]] = field(default_factory=list)
    activations: list[Any] = field(default_factory=list)
    biases: list[tuple[torch.Tensor, Any, Any]] = field(default_factory=list)
    narrow: dict[str, tuple[int, int]] = field(default_factory=dict)
    fixed: int = 0

    def settle(self) -> None:
        """Let no weight's step be so small beside a bias that the bias overflows int32."""
        with torch.no_grad():
            for bias, source, weight in self.biases:
                least = bias.detach().abs().double() / _BIAS_LEVELS / float(source.scale)
                if weight.scale.numel() == 1:
                    least = least.max()
                weight.raise_to(least.float())
            for quantizer, weight in self.weights:
                quantizer.integers(weight)

    def clips(self) -> torch.Tensor:
        """Return PACT's clipping levels, f32[n]."""
        return torch.stack([quantizer.clip.reshape(()) for quantizer in self.activations if hasattr(quantizer, "clip")])


class Follow(Hook):
    """Fits weights' grids now and then, and stops ranges from moving towards the end."""

    def __init__(self, installed: Installed, freeze: float) -> None:
        self._installed, self._freeze, self._last = installed, freeze, 0

    def start(self, network: torch.nn.Module, total: int) -> None:
        """See `Hook`."""
        del network
        self._last = round(self._freeze * total)

    def before_step(self, network: torch.nn.Module, step: int) -> None:
        """See `Hook`."""
        del network
        for quantizer in self._installed.activations:
            if isinstance(quantizer, ObservedRange):
                quantizer.observing = step < self._last
        if step and step % _REFIT == 0:
            for quantizer, weight in self._installed.weights:
                if isinstance(quantizer, FittedWeight):
                    quantizer.fit(weight.detach())


def install(network: TrainableModule, start: Start, options: Aware) -> Installed:
    """Replace the quantisers of `network`, and give its weights back what static rounding took from them."""
    found, nodes = Installed(), {node.name: node for node in start.module.nodes()}
    quantizers = network.quantizers
    weights = {weight.stored: weight for weight in start.weights.values()}
    by_value = _activations(network, start, options, nodes, found)
    for record in network.grids:
        if record.weight in weights and record.weight is not None:
            parameter = getattr(network.weights, record.parameter or "")
            old = quantizers[record.quantizer]
            quantizers[record.quantizer] = _weight(weights[record.weight], parameter, old, options)
            found.weights.append((quantizers[record.quantizer], parameter))
    _biases(network, start, by_value, found)
    return found


def _activations(
    network: TrainableModule, start: Start, options: Aware, nodes: Mapping[Any, ir.Node], found: Installed
) -> dict[ir.Value, Any]:
    """Replace the quantisers of activations; return them by what they read."""
    records = {nodes[record.nodes[0]].inputs[0]: record for record in network.grids if record.weight is None}
    made: dict[ir.Value, Any] = {}
    for value in start.values:
        record = records.get(value)
        if record is None:
            continue
        old: Any = network.quantizers[record.quantizer]
        if value in start.moved and start.moved[value] in made:
            new: Any = Moved(made[start.moved[value]])
        elif _shared(record, nodes):
            new = old
            found.fixed += 1
        else:
            new = _activation(value, start, old, options)
            found.activations.append(new)
            if start.bits[value] < 8:
                found.narrow[record.nodes[0]] = (new.low, new.high)
        made[value] = network.quantizers[record.quantizer] = new
    return made


def _shared(record: Record, nodes: Mapping[Any, ir.Node]) -> bool:
    """Say whether something reads the bytes on another grid, which would have to move along (a hard swish's gate)."""
    return any(usage.node.name not in record.nodes for usage in nodes[record.nodes[0]].outputs[0].uses())


def _activation(value: ir.Value, start: Start, old: FakeQuantizer, options: Aware) -> Any:
    bits, histogram, static = start.bits[value], start.values[value], start.options
    least = LEAST[static.activations] if bits == 8 else (0 if LEAST[static.activations] == 0 else -(2 ** (bits - 1)))
    ends, levels = (least, least + 2**bits - 1), 2**bits - 1
    step, zero = old.scale.reshape(()).clone(), old.zero_point.reshape(()).clone()
    low, high = ((ends[0] - zero) * step).item(), ((ends[1] - zero) * step).item()
    if bits < 8 or options.method == "minmax":
        method = "minmax" if options.method == "minmax" else static.method
        low, high = choose(
            histogram, method, percentile=static.percentile, levels=levels, symmetric=static.symmetric
        )  # fmt: skip
    if options.method == "minmax":
        return ObservedRange(low, high, ends, symmetric=static.symmetric, momentum=options.momentum_of_ranges)
    if bits < 8:
        if static.symmetric:
            middle = ends[0] + levels // 2 + 1
            step, zero = torch.tensor(max(-low, high) / (levels // 2)), torch.tensor(middle)
        else:
            step = torch.tensor((high - low) / levels)
            zero = torch.tensor(int(np.clip(round(ends[0] - low / max(step.item(), 1e-30)), *ends)))
        if not step > 0:
            step = torch.tensor(1.0)
    return Learned(step.float(), zero, ends, None, method=options.method, activation=True)


def _weight(weight: GridWeight, parameter: torch.Tensor, old: Any, options: Aware) -> Any:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.array(weight.content, np.float32)))
    # ±127 keeps products of bytes within what integer kernels add without saturating; fewer bits need every value.
    ends = (-127, 127) if weight.bits == 8 else (-(2 ** (weight.bits - 1)), 2 ** (weight.bits - 1) - 1)
    shape = old.scale.shape
    axis = weight.axis if shape.numel() > 1 or len(shape) else None
    if options.method != "lsq":
        fitted = FittedWeight(shape, ends, axis, search=options.method == "pact")
        fitted.fit(parameter.detach())
        return fitted
    rows = parameter.detach().reshape(1, -1)
    if axis is not None:
        rows = parameter.detach().movedim(axis, 0).reshape(parameter.shape[axis], -1)
    step = best_step(rows, *ends).reshape(shape)
    return Learned(step, torch.zeros(shape, dtype=torch.int32), ends, axis, method="lsq", activation=False)


def _biases(network: TrainableModule, start: Start, by_value: Mapping[ir.Value, Any], found: Installed) -> None:
    before = {unit.result: unit.output for unit in start.units}
    quantizers = network.quantizers
    records = {record.weight: record for record in network.grids if record.weight is not None}
    for unit in start.units:
        if unit.name not in start.weights or unit.kind == "matmul" or len(unit.node.inputs) < 3:
            continue
        bias = unit.node.inputs[2]
        reader = None if bias is None else bias.producer()
        if reader is None or reader.inputs[0] is None or reader.inputs[0].name not in records:
            continue
        record = records[reader.inputs[0].name]
        source = by_value.get(before.get(unit.inputs[0], unit.inputs[0]))
        weight = quantizers[records[start.weights[unit.name].stored].quantizer]
        if source is None:
            continue
        old: Any = quantizers[record.quantizer]
        parameter = getattr(network.weights, record.parameter or "")
        quantizers[record.quantizer] = BiasGrid(source, weight, old.scale)
        found.biases.append((parameter, source, weight))
