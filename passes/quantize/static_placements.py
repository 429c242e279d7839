"""The placements of `quantize.static` by the target they are made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mopt.passes.quantize.static_placement import Placement, place
from mopt.passes.quantize.static_placement_tensorrt import InputPlacement, place_for_tensorrt
from mopt.passes.quantize.static_units import WEIGHTED, Unit

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static


def settled(options: Static) -> Static:
    """Return the options with what the placement implies: TensorRT takes symmetric int8 activations alone."""
    if options.placement != "tensorrt":
        return options
    return replace(options, activations="int8", symmetric=True)


def place_for(
    options: Static, units: Sequence[Unit], shapes: Mapping[str, tuple[int, ...]], left: set[str]
) -> Placement:
    """Return the units that the target of `options` gains from; see `place`."""
    if options.activations.endswith("16"):
        return InputPlacement(unit for unit in units if unit.kind in WEIGHTED and unit.name not in left)
    return (place_for_tensorrt if options.placement == "tensorrt" else place)(units, shapes, left)


def placement_of(options: Static, units: Iterable[Unit], shapes: Mapping[str, tuple[int, ...]]) -> Placement:
    """Return a placement of exactly these units, paying or not."""
    if options.activations.endswith("16"):
        return place_for(options, list(units), shapes, set())
    return place_for_tensorrt(list(units), shapes, set()) if options.placement == "tensorrt" else Placement(units)
