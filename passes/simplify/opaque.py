"""What `simplify.onnxsim` and `simplify.onnxoptimizer` have in common: one run of a tool, verified."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mopt.passes.contract import Context, Note, PassResult

if TYPE_CHECKING:
    from mopt.ir.module import Module

LIFT_ABOVE = 8 << 20
"""Bytes from which a weight stays behind when a tool runs on its own: it may fold the smaller ones."""


def run_tool(tool: str, module: Module, context: Context, *, timeout: float, names: Sequence[str] = ()) -> PassResult:
    """Run a tool once; keep its result only if it is valid, equal, and no larger."""
    from mopt.passes.simplify.tools.exchange import pack, unpack
    from mopt.passes.simplify.tools.process import ToolError
    from mopt.passes.simplify.tools.trial import answer, node_count, same_outputs, start, weight_bytes

    by = f"simplify.{tool}"
    with context.progress(by):
        parcel = pack(module, LIFT_ABOVE)
        trial = start(tool, module, parcel, names)
        try:
            result = unpack(answer(trial, timeout), parcel, module, by)
        except ToolError as error:
            return PassResult(module, False, (Note(f"{tool} was dropped: {error}", "warning"),))
        before, after = node_count(module), node_count(result)
        if after > before:
            return PassResult(module, False, (Note(f"{tool} was dropped: {before} nodes became {after}", "warning"),))
        size, grown = weight_bytes(module), weight_bytes(result)
        if grown > size + max(size // 10, 1 << 20):
            note = Note(f"{tool} was dropped: {size} bytes of constants became {grown}", "warning")
            return PassResult(module, False, (note,))
        problem = same_outputs(module, result, seed=context.seed, bindings=context.bindings)
        if problem:
            return PassResult(module, False, (Note(f"{tool} was dropped: {problem}", "warning"),))
    return PassResult(result, True, (Note(f"{tool}: {before} nodes became {after}"),))
