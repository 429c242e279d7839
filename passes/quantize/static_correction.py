"""What prepares a float graph for its grids: scales moved before calibration, weights rounded after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mopt.ir import Module
from mopt.passes.contract import Context, Note
from mopt.passes.quantize.static_units import Unit
from mopt.rewrite.constants import constant_array
from mopt.runtime.contract import Split

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static


def before_calibration(module: Module, options: Static, split: Split, context: Context) -> list[Note]:
    """Equalise and smooth `module` in place as the options ask; return what to say of it."""
    from mopt.passes.quantize.static_equalize import equalize
    from mopt.passes.quantize.static_smooth import smooth

    notes = equalize(module, split, context) if options.equalize else []
    return [*notes, *(smooth(module, split, context) if options.smooth else [])]


def with_weights(units: Sequence[Unit]) -> list[Unit]:
    """Return the units with the weights their nodes have now."""
    return [
        unit if unit.weight is None else replace(unit, weight=constant_array(unit.node.inputs[1])) for unit in units
    ]
