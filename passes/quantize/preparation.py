"""What every quantiser does around its own work: raise the opset, and say what stayed in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mopt.passes.contract import Context, Note

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.ir.module import Module


def raise_opset(module: Module, context: Context, to: int, reason: str) -> tuple[Module, str]:
    """Bring a module to an opset that has the operators; return it, and what to say of it (empty if it had them).

    Raises:
        PassError: it can't be raised.
    """
    before = module.opset
    if before >= to:
        return module, ""
    from mopt.passes.convert.opset import Opset

    raised = Opset(to=to).run(module, context).module
    return raised, f"opset raised from {before} to {raised.opset}: {reason}"


def left_in_float(left: Mapping[str, Sequence[ir.Node]]) -> list[Note]:
    """Return a note for each reason to leave nodes in float."""
    return [
        Note(f"{len(nodes)} left in float, {reason}", nodes=tuple(node.name or "" for node in nodes))
        for reason, nodes in left.items()
    ]
