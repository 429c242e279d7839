"""What must hold after every step: a valid graph, the same interface, and every promise made so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
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
    step replaced (fused, transposed, quantised) by its number of elements. One that is gone altogether was dead code,
    and promises nothing.

    Raises:
        ContractError: naming the weight, and what was promised and measured.
    """
    if not promises:
        return
    from mopt.analysis.codebook import codebooks

    weights: dict[str, Weight | Codebook] = {weight.name: weight for weight in after.weights()}
    weights |= {book.name: book for book in codebooks(after)}
    shares = {name: (size, share) for promise in promises for name, size, share in promise.weights
              if isinstance(promise, Sparsity)}  # fmt: skip
    for name, share, actual in _found(weights, shares, _zero_share, max):
        if actual + _SLACK < share:
            raise ContractError(
                f"weight `{name}` was promised {share:.2%} zeros by an earlier step and has {actual:.2%} now"
            )
    counts = {name: (size, count) for promise in promises for name, size, count in promise.weights
              if isinstance(promise, Clusters)}  # fmt: skip
    for name, count, actual in _found(weights, counts, _distinct, min):
        if actual > count:
            raise ContractError(
                f"weight `{name}` was promised at most {count:g} different values by an earlier step and has "
                f"{actual:g} now"
            )


def _found(
    weights: Mapping[str, Weight | Codebook],
    promised: Mapping[str, tuple[int, float]],
    measure: Callable[[Weight | Codebook], float],
    best: Callable[[list[float]], float],
) -> Iterator[tuple[str, float, float]]:
    """Yield each promised weight that is there, what was promised of it, and what is measured."""
    strangers: dict[int, list[float]] | None = None
    for name, (wanted_size, figure) in promised.items():
        if name in weights and weights[name].size == wanted_size:
            yield name, figure, measure(weights[name])
            continue
        if strangers is None:
            strangers = defaultdict(list)
            sizes = {wanted for wanted, _ in promised.values()}
            for other in weights.values():
                size = _elements(other) if other.name not in promised else 0
                if size in sizes:
                    strangers[size].append(measure(other))
        if strangers[wanted_size]:
            yield name, figure, best(strangers[wanted_size])


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


def _distinct(weight: Weight | Codebook) -> float:
    """Return the number of different values, or that of the slice with most, if each slice of an axis has a grid."""
    import numpy as np

    array = weight.numpy()
    # numpy 2.4 sorts float16 wrongly on some processors; types of fewer than 8 bits are extensions without an order.
    array = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    counts = [np.unique(array).size]
    slices = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for axis in range(array.ndim)]
    if array.ndim == 3:  # gates of two directions, [D, G, I] or [D, I, G]
        slices += [array.reshape(-1, array.shape[2]), array.transpose(0, 2, 1).reshape(-1, array.shape[1])]
    for part in slices if array.ndim > 1 and array.size else ():
        rows = np.sort(part, axis=1)
        counts.append(int((np.diff(rows, axis=1) != 0).sum(axis=1).max(initial=0)) + 1)
    return float(min(counts))


def inherited(operation: Pass, promises: tuple[Promise, ...]) -> tuple[Promise, ...]:
    """Return the earlier promises that must still hold after a pass."""
    return tuple(promise for promise in promises if promise.kind not in operation.breaks)
