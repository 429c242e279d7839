"""Sizes for a source model's dynamic dimensions: one set to trace at, two more to check the conversion at.

No file says that a network wants widths that are multiples of 32, so sizes are tried on the source model itself,
those that real models use first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import SourceError
from mopt.values import TensorType

if TYPE_CHECKING:
    import numpy as np

Spec = Mapping[str, TensorType]
"""A model's inputs: name → element type and dimensions."""

TRACED_BATCH: Final = 2
"""Not 1: torch.export takes a dimension of size 1 for a constant one."""

CHECKED_BATCHES: Final = (1, 3)

_LADDER: Final = (64, 96, 32, 128, 160, 48, 224, 320, 256, 16, 512, 8, 1024, 4096, 16000, 43844)


def dynamic_names(spec: Spec) -> tuple[str, ...]:
    """Return the names of the dynamic dimensions in order of appearance."""
    names = (dim for kind in spec.values() for dim in kind.dims if isinstance(dim, str))
    return tuple(dict.fromkeys(names))


def batch_names(spec: Spec) -> tuple[str, ...]:
    """Return the dynamic dimensions that are some input's first axis."""
    firsts = (kind.dims[0] for kind in spec.values() if kind.dims)
    return tuple(dict.fromkeys(dim for dim in firsts if isinstance(dim, str)))


def shape_of(kind: TensorType, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return a concrete shape."""
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in kind.dims)


def example(spec: Spec, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Draw an array per input: reals are standard normal, integers 0 or 1 (valid as indices and as masks)."""
    import numpy as np
    from mopt.runtime.dtypes import numpy_dtype

    drawn = {}
    for position, (name, kind) in enumerate(spec.items()):
        generator = np.random.default_rng((seed, position))
        shape, dtype = shape_of(kind, sizes), numpy_dtype(kind.dtype)
        if dtype.kind in "iu":
            drawn[name] = generator.integers(0, 2, shape).astype(dtype)
        elif dtype.kind == "b":
            drawn[name] = np.ones(shape, dtype)
        else:
            drawn[name] = generator.standard_normal(shape).astype(dtype)
    return drawn


def find_sizes(
    spec: Spec, chosen: Mapping[str, int], attempt: Callable[[Mapping[str, int]], None]
) -> tuple[dict[str, int], list[dict[str, int]]]:
    """Return the sizes to trace at, and those to check at: two sets wherever the model takes two.

    Args:
        spec: the inputs.
        chosen: sizes the recipe gives, tried first.
        attempt: runs the source model; raises SourceError where it does not take the sizes.

    Raises:
        SourceError: it takes none of the sizes; the message is that of the first attempt.
    """
    batches = [name for name in batch_names(spec) if name not in chosen]
    others = [name for name in dynamic_names(spec) if name not in batches]
    unknown = sorted(set(chosen) - set(dynamic_names(spec)))
    if unknown:
        raise SourceError(
            f"`sizes` names {', '.join(f'`{name}`' for name in unknown)}, no dynamic dimension of `inputs`"
        )
    batch = dict.fromkeys(batches, TRACED_BATCH)
    traced, first_error = _first(batch, _combinations(others, chosen), attempt)
    if traced is None:
        assert first_error is not None
        if not others:
            raise first_error
        raise SourceError(
            f"{first_error}\n  no size that was tried for {', '.join(others)} suits the model; "
            f"give one that does by `sizes={{{others[0]}: …}}`"
        )
    checks = []
    if batches or not others:
        for size in CHECKED_BATCHES if batches else (0,):
            candidate = {**traced, **dict.fromkeys(batches, size)}
            if _taken(candidate, attempt):
                checks.append(candidate)
    if others:
        last = dict.fromkeys(batches, CHECKED_BATCHES[-1])
        away = (pick for pick in _combinations(others, {}) if all(pick[name] != traced[name] for name in others))
        varied, _ = _first(last, away, attempt)
        if varied is None:  # the dimensions hang together: vary one at a time
            for name in others:
                single = (
                    {**{other: traced[other] for other in others}, name: size}
                    for size in _LADDER
                    if size != traced[name]
                )
                varied, _ = _first(last, single, attempt)
                if varied is not None:
                    break
        checks = [*checks[:1], varied] if varied is not None else checks
        if not batches:
            checks.insert(0, traced)
    return traced, checks or [traced]


def _first(
    fixed: Mapping[str, int],
    candidates: Iterator[dict[str, int]],
    attempt: Callable[[Mapping[str, int]], None],
) -> tuple[dict[str, int] | None, SourceError | None]:
    first_error = None
    for candidate in itertools.islice(candidates, 48):
        sizes = {**fixed, **candidate}
        try:
            attempt(sizes)
        except SourceError as error:
            first_error = first_error or error
        else:
            return sizes, None
    return None, first_error


def _taken(sizes: Mapping[str, int], attempt: Callable[[Mapping[str, int]], None]) -> bool:
    try:
        attempt(sizes)
    except SourceError:
        return False
    return True


def _combinations(names: Sequence[str], chosen: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Yield sizes for all names at once, unlike ones first: height and width that are equal hide a mix-up."""
    free = [name for name in names if name not in chosen]
    given = {name: chosen[name] for name in names if name in chosen}
    if not free:
        yield given
        return
    if len(free) > 1:
        for start in range(0, 6, 2):
            yield {**given, **{name: _LADDER[(start + at) % len(_LADDER)] for at, name in enumerate(free)}}
    for size in _LADDER:
        yield {**given, **dict.fromkeys(free, size)}
    if len(free) > 1:
        for picked in itertools.product(_LADDER[:6], repeat=len(free)):
            if len(set(picked)) > 1:
                yield {**given, **dict(zip(free, picked, strict=True))}
