"""Find sizes for dynamic dimensions by trying them: no hint in a file says that a detector wants multiples of 32.

Each dimension gets a ladder of sizes that real models of its kind use, and the model is run, likeliest
combinations first, until one is accepted: it runs, and gives outputs that are neither empty nor all NaN.
The number of tries is bounded, and no clock is involved, so the answer is the same on every machine.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from mopt.runtime.contract import RunError
from mopt.runtime.dimensions import Dimension, derived, dimension_key, dynamic_dimensions
from mopt.runtime.input_roles import input_roles
from mopt.runtime.inputs import draw
from mopt.runtime.ort import OrtRunner

if TYPE_CHECKING:
    from mopt.ir.module import Module

_TRIES: Final = 160
_BATCHES: Final = (1, 2, 3, 4)
_IMAGE: Final = (64, 96, 32, 48, 128, 160, 224, 320, 256, 299, 28, 512, 640, 16, 8)
_SIGNAL: Final = (512, 576, 256, 1024, 1536, 400, 16000, 64, 16, 3, 4, 8, 784)
_TOKENS: Final = (16, 24, 8, 32, 64, 77, 128, 7, 4, 2, 512)
_FRAMES: Final = (32, 48, 64, 100, 16, 128, 80, 7, 3, 4)


def search(module: Module) -> Iterator[dict[str, int]]:
    """Yield up to two sets of sizes that a module with dynamic dimensions accepts, the second unlike the first."""
    dimensions = dynamic_dimensions(module)
    keys = [dimension.key for dimension in dimensions]
    free = [dimension for dimension in dimensions if not derived(dimension.key, keys)]
    # An exporter that spells one dimension in two ways leaves only expressions: search all of them, then.
    free = free or list(dimensions)
    batch = {dimension.key for dimension in free if any(axis == 0 for _, axis in dimension.places)}
    ladders = {dimension.key: _ladder(module, dimension) for dimension in free}
    with OrtRunner(module, optimize="basic") as runner:
        trial = _Trial(module, runner)
        first = trial.first(_combinations(free, batch, ladders, batch_size=1))
        first = first or trial.first(_combinations(free, batch, ladders, batch_size=2))
        if first is None:
            return
        yield first
        for candidates in _second(free, batch, ladders, first):
            second = trial.first(sizes for sizes in candidates if sizes != first)
            if second is not None:
                yield second
                return


class _Trial:
    def __init__(self, module: Module, runner: OrtRunner) -> None:
        self._module, self._runner = module, runner
        self._roles = input_roles(module)

    def first(self, candidates: Iterator[dict[str, int]]) -> dict[str, int] | None:
        for tried, sizes in enumerate(candidates):
            if tried >= _TRIES:
                return None
            if self._accepts(sizes):
                return sizes
        return None

    def _accepts(self, sizes: Mapping[str, int]) -> bool:
        try:
            outputs = self._runner.run(draw(self._module, self._roles, sizes, seed=0))
        except (RunError, KeyError):
            return False
        return all(array.size and not (array.dtype.kind == "f" and np.isnan(array).all()) for array in outputs.values())


def _second(
    free: Sequence[Dimension], batch: set[str], ladders: Mapping[str, tuple[int, ...]], first: Mapping[str, int]
) -> Iterator[Iterator[dict[str, int]]]:
    """Yield candidate streams: all dimensions unlike the first set, only the batch, only the others."""
    other = {key: tuple(size for size in ladder if size != first[key]) for key, ladder in ladders.items()}
    fixed = {key: (first[key],) for key in ladders}
    next_batch = next((size for size in _BATCHES if all(first[key] != size for key in batch)), 2)
    yield _combinations(free, batch, other, next_batch)
    if batch:
        # A state's inner axis follows the batch, so the others may take the batch's size beside their first one.
        yield _combinations(free, batch, fixed, next_batch)
        yield _combinations(free, set(), {**other, **{key: (first[key],) for key in batch}}, first[min(batch)])
    for key in ladders:
        if key not in batch:
            yield _combinations(free, batch, {**fixed, key: other[key]}, first[min(batch)] if batch else 1)


def _combinations(
    free: Sequence[Dimension], batch: set[str], ladders: Mapping[str, tuple[int, ...]], batch_size: int
) -> Iterator[dict[str, int]]:
    """Yield products of the ladders, those near their beginnings first (by the sum of positions)."""
    options: list[tuple[int, ...]] = []
    for dimension in free:
        if dimension.key in batch:
            options.append((batch_size,))
        elif _follows_batch(dimension):
            options.append((batch_size, *(size for size in ladders[dimension.key] if size != batch_size)))
        else:
            options.append(ladders[dimension.key])
    if not all(options):
        return
    start = (0,) * len(options)
    heap, seen = [(0, start)], {start}
    while heap:
        total, positions = heapq.heappop(heap)
        yield {dimension.key: sizes[at] for dimension, sizes, at in zip(free, options, positions, strict=True)}
        for axis, at in enumerate(positions):
            following = (*positions[:axis], at + 1, *positions[axis + 1 :])
            if at + 1 < len(options[axis]) and following not in seen:
                seen.add(following)
                heapq.heappush(heap, (total + 1, following))


def _follows_batch(dimension: Dimension) -> bool:
    """Recurrent state is `[layers, batch, hidden]`: a dynamic axis 1 below a fixed axis 0."""
    return all(axis == 1 and dimension.key == dimension_key(name, axis, None) for name, axis in dimension.places)


def _ladder(module: Module, dimension: Dimension) -> tuple[int, ...]:
    if any(axis == 0 for _, axis in dimension.places):
        return _BATCHES
    shapes = {tensor.name: tensor for tensor in module.inputs}
    name, axis = dimension.places[0]
    tensor = shapes[name]
    rank = len(tensor.shape)
    if tensor.dtype.startswith("i"):
        return _TOKENS
    if rank >= 4:
        # Recognisers of text lines want 48 or 32 rows; what else takes 48 rows loses nothing by it.
        return (48, *(size for size in _IMAGE if size != 48)) if axis == rank - 2 else _IMAGE
    return _SIGNAL if rank == 2 else _FRAMES
