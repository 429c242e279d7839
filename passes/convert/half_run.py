"""Converting a module to a 16-bit type: decide, rewrite, report."""

from __future__ import annotations

from collections.abc import Sequence

from mopt.ir import Module
from mopt.passes.contract import Context, Note, PassResult
from mopt.passes.convert.half_choice import choose
from mopt.passes.convert.half_report import notes
from mopt.passes.convert.half_rewrite import apply
from mopt.passes.convert.half_scales import lift
from mopt.passes.convert.half_slots import HALF_SCALES, QUANTISERS, is_float32
from mopt.passes.convert.half_types import HalfType
from mopt.passes.quantize.preparation import raise_opset

WIDE_OPSET = 22
"""The first opset whose convolutions, pooling and recurrent layers take bfloat16."""


def convert(
    module: Module,
    context: Context,
    kind: HalfType,
    keep: Sequence[str],
    skip: Sequence[str],
    *,
    half_interface: bool,
    scales: bool,
) -> PassResult:
    """Convert `module` in place. See `Float16.run` and `Bfloat16.run`.

    Raises:
        PassError: the operators that take the type are of a later opset, to which the module can't be raised.
    """
    found: list[Note] = []
    if kind.wide and any(is_float32(value) for node in module.nodes() for value in node.outputs):
        module, told = raise_opset(module, context, WIDE_OPSET, "convolutions in bfloat16")
        found += [Note(told)] if told else []
    if scales and any(node.op_type in QUANTISERS for node in module.nodes()):
        module, _ = raise_opset(module, context, HALF_SCALES, f"scales in {kind.name}")
        if not kind.wide:
            lift(module)
    choice = choose(module, keep=keep, skip=skip, half_interface=half_interface, scales=scales, kind=kind)
    outcome = apply(module, choice)
    if outcome.modified:
        module.touch()
    return PassResult(module, outcome.modified, (*found, *notes(choice, outcome)))
