"""The grid of every value that is put on bytes.

A grid maps bytes q to reals scale · (q - zero_point). Zero lies on every grid, so that padding is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir
from mopt.passes.quantize.calibration_histogram import Histogram
from mopt.passes.quantize.calibration_ranges import choose
from mopt.passes.quantize.static_placement import Placement
from mopt.passes.quantize.static_units import Unit

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static

HARD: Final = 3.0
"""A hard swish is zero up to minus this, and the identity from this on."""
LEAST: Final = {"uint8": 0, "int8": -128, "uint16": 0, "int16": -32768}
"""The smallest number of each storage."""


@dataclass(frozen=True)
class Grid:
    """How bytes stand for reals.

    Attributes:
        scale: the real distance of two neighbours, a float32.
        zero_point: the byte that is zero where the value is quantised.
        seen: the byte that is zero where it is read: another one adds a constant on the way.
        dtype: `uint8`, `int8`, or their 16-bit kin.
    """

    scale: float
    zero_point: int
    seen: int
    dtype: str

    @property
    def least(self) -> int:
        """The smallest byte."""
        return LEAST[self.dtype]

    @property
    def most(self) -> int:
        """The largest byte."""
        return self.least + levels(self.dtype)


def levels(dtype: str) -> int:
    """Return how many steps a grid has."""
    return 65535 if dtype.endswith("16") else 255


def grids(placement: Placement, tensors: Mapping[str, Histogram], options: Static) -> dict[ir.Value, Grid]:
    """Return the grid of every value on bytes: what units give and what they read."""
    found: dict[ir.Value, Grid] = {}
    for unit in placement.units:
        for value in unit.inputs:
            if value not in found and placement.on_grid(value) is None:
                found[value] = _grid(tensors[value.name or ""], options)
        if placement.on_grid(unit.result) is None:
            continue
        if unit.kind == "move":
            source = found[unit.inputs[0]]
            found[unit.result] = Grid(source.scale, source.seen, source.seen, source.dtype)
        else:
            found[unit.result] = _of_result(unit, placement, tensors[unit.result.name or ""], options)
    return found


def _of_result(unit: Unit, placement: Placement, histogram: Histogram, options: Static) -> Grid:
    readers = {placement.by_node[usage.node] for usage in unit.result.uses() if usage.node in placement.by_node}
    if any(reader.kind == "hardswish" for reader in readers):
        return _below_hardswish(histogram, options)
    return _grid(histogram, options, unit.shift, unit.limits)


def _below_hardswish(histogram: Histogram, options: Static) -> Grid:
    """The smallest byte is -3, exactly: what lies below is zero after a hard swish anyway."""
    _, high = _range(histogram, options, floor=-HARD)
    steps = levels(options.activations)
    below = int(min(max(steps * HARD // (HARD + max(high, 1e-3)), 1), steps))
    least = LEAST[options.activations]
    return Grid(float(np.float32(HARD / below)), least + below, least + below, options.activations)


def _grid(histogram: Histogram, options: Static, shift: float = 0.0, limits: tuple[float, float] | None = None) -> Grid:
    low, high = _range(histogram, options)
    if limits is not None:
        low, high = max(low, limits[0]), min(high, limits[1])
    least, most = LEAST[options.activations], levels(options.activations)
    if options.symmetric:
        middle = least + most // 2 + 1
        scale = _positive(max(-low, high) / (most // 2))
        return Grid(scale, middle, middle, options.activations)
    low, high = min(low, shift), max(high, shift)
    scale = _positive((high - low) / most)
    steps = round(shift / scale)
    if abs(shift) >= scale:
        steps = int(np.sign(shift)) * int(abs(shift) // scale)
        scale = _positive(shift / steps)  # a little more than before: the shift is a whole number of steps
    seen = least + min(max(round(-low / scale), 0), most)
    return Grid(scale, min(max(seen + steps, least), least + most), seen, options.activations)


def _range(histogram: Histogram, options: Static, floor: float = -np.inf) -> tuple[float, float]:
    return choose(
        histogram,
        options.method,
        percentile=options.percentile,
        levels=levels(options.activations),
        symmetric=options.symmetric,
        floor=floor,
    )


def _positive(scale: float) -> float:
    """Return a scale that float32 holds; a constant zero tensor has any."""
    return float(max(np.float32(scale), np.finfo(np.float32).tiny)) if scale > 0 else 1.0
