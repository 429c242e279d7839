"""Optimisation profiles: the range of sizes an engine is built for, for each dynamic dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mopt.runtime.contract import RunError, Sizes, TargetError
from mopt.runtime.dimensions import Dimension, dynamic_dimensions, resolve
from mopt.runtime.trt.widen import widened

if TYPE_CHECKING:
    from mopt.ir.module import Module

Range = tuple[int, int, int]
"""Smallest, likeliest and largest size of a dimension."""

_LARGEST_BATCH: Final = 8
_STRETCH: Final = 10
"""The guessed largest size of a dimension, as a multiple of the largest that was tried."""


@dataclass(frozen=True)
class Plan:
    """One attempt at a profile.

    Attributes:
        ranges: by dimension.
        shapes: by input, its (min, opt, max) shapes; static inputs are absent.
        note: what a reader should know of it, or empty.
    """

    ranges: Mapping[str, Range]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    note: str = ""


def plans(module: Module, declared: Mapping[str, Sequence[int]], sizes: Sizes | None = None) -> list[Plan]:
    """Return the profiles to try, the most general first. One only where the recipe declares every dimension.

    The batch goes by the batches that the recipe profiles. Another dimension that it does not declare is guessed:
    from sizes that the model really accepts, and the one that the recipe binds; where an engine can't be built for
    the guessed range, the dimension is built for one size instead, with a note. Declared dimensions that this
    model lacks are another model's.

    Raises:
        TargetError: sizes are not min ≤ opt ≤ max, or none of the declared dimensions exists.
    """
    sizes = sizes or Sizes()
    dimensions = dynamic_dimensions(module)
    known = {dimension.key for dimension in dimensions}
    fixed = {key: _declared(key, given) for key, given in declared.items()}
    ranges = {key for key, sizes in fixed.items() if sizes[0] != sizes[2]}  # others may be bound in the graph already
    if ranges and not known & set(declared):
        names = ", ".join(f"`{name}`" for name in sorted(known)) or "none"
        asked = ", ".join(f"`{name}`" for name in declared)
        raise TargetError(f"`profile` names {asked}; the model's dynamic dimensions are {names}")
    fixed = {key: given for key, given in fixed.items() if key in known}
    if sizes.batches:
        for dimension in dimensions:
            if dimension.key not in fixed and any(axis == 0 for _, axis in dimension.places):
                fixed[dimension.key] = min(sizes.batches), sizes.batches[0], max(sizes.batches)
    if not dimensions:
        return [Plan({}, {})]
    open_ones = [dimension for dimension in dimensions if dimension.key not in fixed]
    if not open_ones:
        return [_plan(module, fixed, "")]
    tried = _tried(module, fixed)
    guesses = {dimension.key: _guess(dimension, tried, sizes.bind.get(dimension.key)) for dimension in open_ones}
    batch = {dimension.key for dimension in open_ones if any(axis == 0 for _, axis in dimension.places)}
    first = {key: (sizes.bind.get(key, tried[0][key]),) * 3 for key in guesses}
    attempts = [guesses, {**first, **{key: guesses[key] for key in batch}}, first]
    unique = [attempt for at, attempt in enumerate(attempts) if attempt not in attempts[:at]]
    return [_plan(module, {**attempt, **fixed}, _note(attempt)) for attempt in unique]


def _declared(key: str, sizes: Sequence[int]) -> Range:
    if len(sizes) == 1:
        sizes = (sizes[0],) * 3
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise TargetError(
            f"`profile` gives `{key}` the sizes {list(sizes)}; it takes [min, opt, max] in rising order, or one size"
        )
    return sizes[0], sizes[1], sizes[2]


def _tried(module: Module, fixed: Mapping[str, Range]) -> list[dict[str, int]]:
    from mopt.runtime.inputs import binding_sets

    try:
        return binding_sets(widened(module))
    except RunError as error:
        missing = [d.key for d in dynamic_dimensions(module) if d.key not in fixed]
        raise TargetError(f"{error}", help=f"declare `profile={{{missing[0]}: [min, opt, max]}}`") from error


def _guess(dimension: Dimension, tried: Sequence[Mapping[str, int]], bound: int | None) -> Range:
    sizes = sorted({sizes[dimension.key] for sizes in tried if dimension.key in sizes}) or [1]
    if len(sizes) == 1:
        return (sizes[0],) * 3
    if any(axis == 0 for _, axis in dimension.places):
        return sizes[0], sizes[0], _LARGEST_BATCH
    likely = sizes[-1] if bound is None else bound
    return min(sizes[0], likely), likely, max(sizes[-1] * _STRETCH, likely)


def _plan(module: Module, ranges: Mapping[str, Range], note: str) -> Plan:
    shapes = {}
    for tensor in module.inputs:
        small, likely, large = (
            resolve(tensor.name, tensor.shape, {key: sizes[at] for key, sizes in ranges.items()}) for at in range(3)
        )
        if dynamic_dimensions(module) and any(not isinstance(size, int) or size < 0 for size in tensor.shape):
            shapes[tensor.name] = (small, likely, large)
    return Plan(dict(ranges), shapes, note)


def _note(guessed: Mapping[str, Range]) -> str:
    told = ", ".join(
        f"{key} {sizes[0]}" if sizes[0] == sizes[2] else f"{key} {sizes[0]}–{sizes[2]} (best at {sizes[1]})"
        for key, sizes in guessed.items()
    )
    return f"built for {told}; declare `profile={{…}}` for other sizes"
