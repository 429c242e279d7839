"""16-bit activations: on a whole graph, or on the units that 8 bits cost too much (mixed precision).

QuantizeLinear and DequantizeLinear know 16 bits from opset 21 on. onnxruntime's CPU provider has no kernel that takes
such a pair in: it converts, and runs the operator in float. So only what feeds weighted operators is put on a grid,
which is all that a 16-bit accelerator needs to know, and as few conversions as can be for one that has to run them.
Weights are int8, biases float.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mopt.ir import Module
from mopt.passes.contract import Note, PassError
from mopt.passes.quantize.calibration_histogram import Histogram
from mopt.passes.quantize.static_graph import Writer
from mopt.passes.quantize.static_placement import Placement
from mopt.passes.quantize.static_placement_tensorrt import InputPlacement
from mopt.passes.quantize.static_units import WEIGHTED, find_units

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static

OPSET: Final = 21
"""The first opset whose QuantizeLinear gives 16 bits."""


def is_wide(options: Static) -> bool:
    """Say whether all activations are of 16 bits."""
    return options.activations.endswith("16")


def opset_for(options: Static, narrow: int) -> int:
    """Return the opset that the options need; `narrow` where nothing is of 16 bits."""
    return OPSET if is_wide(options) or (options.sensitive != "float" and options.budget > 0) else narrow


def refuse_where_unknown(options: Static) -> None:
    """Refuse 16 bits for a target that has none.

    Raises:
        PassError: TensorRT's explicit quantisation is of 8 bits or fewer.
    """
    if options.placement == "tensorrt" and (is_wide(options) or options.sensitive != "float"):
        asked = f"activations={options.activations}" if is_wide(options) else f"sensitive={options.sensitive}"
        raise PassError(
            f"`{asked}` can't be placed for TensorRT, which quantises activations to 8 bits",
            help="leave units that need more in float (`keep`, `budget`), or place for onnxruntime",
        )


def write_sensitive(module: Module, read: Mapping[str, Histogram], options: Static) -> tuple[int, list[Note]]:
    """Put what sensitive units read on 16 bits, and their weights in int8, in a module that is in 8 bits otherwise.

    Args:
        read: for each of them what calibration saw of its input, by the unit's name.

    Returns:
        how many weights were stored, and what to say.
    """
    dtype = options.sensitive
    units = [unit for unit in find_units(module, regrid=False)[0] if unit.kind in WEIGHTED and unit.name in read]
    if dtype == "float" or not units:
        return 0, []
    tensors = {unit.inputs[0].name or "": read[unit.name] for unit in units}
    writer = Writer(module, InputPlacement(units), tensors, replace(options, activations=dtype, symmetric=False))
    writer.write()
    return writer.elements, [_said(dtype, tuple(unit.name for unit in units))]


def notes(options: Static, placement: Placement) -> list[Note]:
    """Return what to say where all activations are of 16 bits."""
    return [_said(options.activations, tuple(unit.name for unit in placement.units))] if is_wide(options) else []


def _said(dtype: str, names: tuple[str, ...]) -> Note:
    where = "onnxruntime's CPU provider converts them and computes in float"
    return Note(f"{len(names)} with {dtype} activations: {where}", nodes=names)
