"""What rounding an activation changes on average: the mean error of each channel, which the readers' biases take.

Rounding errors of most values average out; those of a channel that is nearly constant do not. A hard swish holds much
of what it gives near its minimum: where that falls between two steps, up to half a step is added to every element, and
the next layer sums it over its whole kernel. On PP-OCRv4's recogniser one such value made half of the logits' error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context
from mopt.passes.quantize.calibration import stream
from mopt.passes.quantize.static_grids import Grid
from mopt.passes.quantize.static_placement import Placement
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.runtime.contract import Split

Reals = NDArray[np.float64]
_BIASED: Final = ("conv", "gemm")


def rounding_means(
    module: Module, placement: Placement, grids: Mapping[ir.Value, Grid], split: Split, context: Context
) -> dict[str, Reals]:
    """Return E[Q(x) - x] of each channel of what convolutions and Gemms read, f64[channels] by the value's name.

    The float model runs over the split once more: the grids have to be known before.

    Args:
        grids: of every value on bytes.
    """
    shifts = {unit.result: unit.shift for unit in placement.units}
    found: dict[str, tuple[ir.Value, SystematicMeans]] = {}
    for unit in placement.units:
        if unit.kind in _BIASED:
            value = unit.inputs[0]
            found[value.name or ""] = value, SystematicMeans(1 if unit.kind == "conv" else -1)
    if not found:
        return {}

    def visit(name: str, array: NDArray[Any]) -> None:
        value, means = found[name]
        means.add(error(array, grids[value], shifts.get(value, 0.0)))

    stream(module, list(found), split, context, label="measure rounding", visit=visit)
    return {name: means.mean() for name, (_, means) in found.items() if means.samples}


class SystematicMeans:
    """Channel means of one value over samples, each shrunk by what chance alone would make of it.

    A channel's mean m, of samples' means that vary with a standard error s about it, becomes m · max(0, 1 - s² / m²),
    the positive-part estimate of James and Stein: errors that differ from sample to sample are no bias.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._sums = self._squares = np.zeros(())
        self.samples = 0

    def add(self, array: NDArray[Any]) -> None:
        """Count one sample's array."""
        if not array.size:
            return
        others = tuple(axis for axis in range(array.ndim) if axis != self._axis % array.ndim)
        means = array.mean(axis=others, dtype=np.float64)
        self._sums, self._squares = self._sums + means, self._squares + means**2
        self.samples += 1

    def mean(self) -> Reals:
        """Return the means, f64[channels]; of a single sample unshrunk."""
        mean = self._sums / self.samples
        if self.samples < 2:
            return np.asarray(mean)
        error = np.maximum(self._squares / self.samples - mean**2, 0) / (self.samples - 1)
        power = np.maximum(mean**2, np.finfo(np.float64).tiny)
        return np.asarray(mean * np.maximum(0.0, 1 - error / power))


def error(array: NDArray[Any], grid: Grid, shift: float = 0.0) -> NDArray[np.float32]:
    """Return Q(x) - x, of x's shape.

    Args:
        shift: what is added behind QuantizeLinear, and is in x already.
    """
    steps = np.subtract(array, np.float32(shift), dtype=np.float32)
    steps *= np.float32(1 / grid.scale)
    np.rint(steps, out=steps)
    np.clip(steps, grid.least - grid.zero_point, grid.most - grid.zero_point, out=steps)
    steps += np.float32(grid.zero_point - grid.seen)
    steps *= np.float32(grid.scale)
    steps -= array
    return np.asarray(steps, np.float32)
