"""What must hold after every step: a valid graph, the same interface, and every promise made so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mopt.passes.contract import Clusters, Sparsity

if TYPE_CHECKING:
    from mopt.analysis.codebook import Codebook
    from mopt.ir import Module
    from mopt.ir.weights import Weight
    from mopt.passes.contract import Pass, Promise

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


def check_interface(
    before: Module, after: Module, *, dtypes_may_change: bool, sizes_may_be_fixed: bool = False
) -> None:
    """Check that inputs and outputs kept names, order, ranks, fixed sizes and (unless excused) element types.

    A size of an input that was dynamic may become fixed only with `sizes_may_be_fixed`.

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
            if (
                was.ranked
                and now.ranked
                and not _same_shape(was.shape, now.shape, exact=side == "inputs" and not sizes_may_be_fixed)
            ):
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


def check_promises(after: Module, promises: tuple[Promise, ...]) -> None:
    """Check that promised zeros and clusters are still there.

    A weight is looked up by name (one that is stored as a codebook by the name it had, looked up); one that a later
    step replaced (fused, transposed, quantised) by its number of elements. Values are counted in what was promised: the
    whole weight, or each of its slices. One that is gone altogether was dead code,
    and promises nothing.

    Raises:
        ContractError: naming the weight, and what was promised and measured.
    """
    if not promises:
        return
    from mopt.analysis.codebook import codebooks
    from mopt.build.distinct import distinct

    weights: dict[str, Weight | Codebook] = {weight.name: weight for weight in after.weights()}
    weights |= {book.name: book for book in codebooks(after)}
    given = [(entry, promise) for promise in promises for entry in promise.weights]
    shares = {entry[0]: entry for entry, promise in given if isinstance(promise, Sparsity)}
    for name, share, found, _ in _found(weights, shares):
        actual = max(_zero_share(weight) for weight in found)
        if actual + _SLACK < share:
            raise ContractError(
                f"weight `{name}` was promised {share:.2%} zeros by an earlier step and has {actual:.2%} now"
            )
    counts = {entry[0]: entry for entry, promise in given if isinstance(promise, Clusters)}
    slices = {name: (axis, rows) for promise in promises if isinstance(promise, Clusters)
              for name, axis, rows in promise.slices}  # fmt: skip
    for name, count, found, named in _found(weights, counts):
        actual = min(distinct(weight, slices.get(name), moved=not named) for weight in found)
        if actual > count:
            raise ContractError(
                f"weight `{name}` was promised at most {count:g} different values by an earlier step and has "
                f"{actual:g} now"
            )


def _found(
    weights: Mapping[str, Weight | Codebook], promised: Mapping[str, tuple[str, int, float]]
) -> Iterator[tuple[str, float, list[Weight | Codebook], bool]]:
    """Yield each promised weight that is there, what was promised, where it may be, and whether the name says so."""
    strangers: dict[int, list[Weight | Codebook]] | None = None
    for name, (_, wanted_size, figure) in promised.items():
        if name in weights and weights[name].size == wanted_size:
            yield name, figure, [weights[name]], True
            continue
        if strangers is None:
            strangers = defaultdict(list)
            for other in weights.values():
                if other.name not in promised:
                    strangers[_elements(other)].append(other)
        if strangers[wanted_size]:
            yield name, figure, strangers[wanted_size], False


def _elements(weight: Weight | Codebook) -> int:
    """Return the number of elements, those that a packed weight stands for."""
    from mopt.analysis.codebook import Codebook
    from mopt.analysis.parameters import count_parameters

    return weight.size if isinstance(weight, Codebook) else count_parameters(weight)[0] or weight.size


def _zero_share(weight: Weight | Codebook) -> float:
    """Return the share of zeros; a quantised weight is zero where it equals its zero point."""
    import numpy as np
    from mopt.analysis.codebook import Codebook
    from mopt.analysis.parameters import count_parameters

    count, nonzero = (weight.size, weight.nonzero()) if isinstance(weight, Codebook) else count_parameters(weight)
    if not count:
        count, nonzero = weight.size, int(np.count_nonzero(weight.numpy()))
    return 1.0 - nonzero / count if count else 1.0


def inherited(operation: Pass, promises: tuple[Promise, ...]) -> tuple[Promise, ...]:
    """Return the earlier promises that must still hold after a pass."""
    return tuple(promise for promise in promises if promise.kind not in operation.breaks)
