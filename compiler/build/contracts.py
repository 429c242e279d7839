"""What must hold after every step: a valid graph, the same interface, and every promise made so far."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.ir.weights import Weight
    from mopt.passes.contract import Pass, Sparsity

_SLACK = 1e-9
"""Shares are fractions of counts: only rounding may separate a kept promise from the promise."""


class ContractError(Exception):
    """A step broke what it, or an earlier step, guarantees."""


def check_valid(after: Module) -> None:
    """Check the invariants of the IR.

    Raises:
        ContractError: naming every broken invariant.
    """
    from mopt.ir import verify

    violations = verify(after)
    if violations:
        shown = "; ".join(f"{v.invariant}: {v.message}" for v in violations[:3])
        more = f" (and {len(violations) - 3} more)" if len(violations) > 3 else ""
        raise ContractError(f"the graph is not valid any more: {shown}{more}")


def check_interface(before: Module, after: Module, *, dtypes_may_change: bool) -> None:
    """Check that inputs and outputs kept names, order, ranks, fixed sizes and (unless excused) element types.

    A size that was dynamic may become fixed only where the pass is allowed to change the interface too.

    Raises:
        ContractError: naming the input or output and both forms.
    """
    for side in ("inputs", "outputs"):
        old, new = getattr(before, side), getattr(after, side)
        if [port.name for port in old] != [port.name for port in new]:
            raise ContractError(
                f"the {side} changed from {', '.join(p.name for p in old)} to {', '.join(p.name for p in new)}"
            )
        for was, now in zip(old, new, strict=True):
            if was.dtype != now.dtype and not dtypes_may_change:
                raise ContractError(f"{side[:-1]} `{was.name}` changed from {was.dtype} to {now.dtype}")
            if was.ranked and now.ranked and not _same_shape(was.shape, now.shape, exact=side == "inputs"):
                raise ContractError(
                    f"{side[:-1]} `{was.name}` changed its shape from {_shape(was.shape)} to {_shape(now.shape)}"
                )


def _same_shape(old: Any, new: Any, *, exact: bool) -> bool:
    if len(old) != len(new):
        return False
    for was, now in zip(old, new, strict=True):
        if isinstance(was, int) and isinstance(now, int) and was != now:
            return False
        if exact and isinstance(was, int) != isinstance(now, int):
            return False
    return True


def _shape(shape: Any) -> str:
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def check_promises(after: Module, promises: tuple[Sparsity, ...]) -> None:
    """Check that promised zeros are still there.

    A weight is looked up by name; one that a later step replaced (fused, transposed, quantised) by its number of
    elements. One that is gone altogether was dead code, and promises nothing.

    Raises:
        ContractError: naming the weight, the promised and the measured share of zeros.
    """
    if not promises:
        return

    weights = {weight.name: weight for weight in after.weights()}
    promised = {name: (size, share) for promise in promises for name, size, share in promise.weights}
    strangers: dict[int, list[float]] | None = None
    for name, (size, share) in promised.items():
        if name in weights and weights[name].size == size:
            actual = _zero_share(weights[name])
        else:
            if strangers is None:
                strangers = defaultdict(list)
                for other in weights.values():
                    if other.name not in promised:
                        strangers[other.size].append(_zero_share(other))
            actual = max(strangers[size], default=share)
        if actual + _SLACK < share:
            raise ContractError(
                f"weight `{name}` was promised {share:.2%} zeros by an earlier step and has {actual:.2%} now"
            )


def _zero_share(weight: Weight) -> float:
    """Return the share of zeros; a quantised weight is zero where it equals its zero point."""
    import numpy as np
    from mopt.analysis.parameters import count_parameters

    count, nonzero = count_parameters(weight)
    if not count:
        count, nonzero = weight.size, int(np.count_nonzero(weight.numpy()))
    return 1.0 - nonzero / count if count else 1.0


def inherited(operation: Pass, promises: tuple[Sparsity, ...]) -> tuple[Sparsity, ...]:
    """Return the earlier promises that must still hold after a pass."""
    return tuple(promise for promise in promises if promise.kind not in operation.breaks)
