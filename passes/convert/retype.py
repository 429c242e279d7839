"""Give a graph another interface: names of inputs, sizes for dynamic dimensions, dynamic dimensions for sizes.

Renaming and binding can be checked exactly: the graph before is the reference. A fixed batch that becomes dynamic
is checked against the old graph run once per sample. Another fixed dimension that becomes dynamic has no reference
at a new size; that it runs there is all that can be said, and the note says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.ir.module import Module
from mopt.passes.convert.agreement import TOLERANCE
from mopt.passes.convert.interface import refresh_shapes, rename_inputs
from mopt.runtime.compare import drift
from mopt.runtime.contract import RunError, SourceError, TargetError
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.values import TensorType

_BAKED: Final = "the size may be baked into the graph (in a Reshape, say); export it again with that dimension dynamic"

Arrays = dict[str, np.ndarray[Any, Any]]


def retype(module: Module, inputs: Mapping[str, TensorType], what: str, seed: int) -> tuple[Module, list[str]]:
    """Return a module with the declared inputs, and notes.

    Inputs whose names the graph knows are matched by name, and the others may be left out; names the graph does
    not know rename its inputs by position, all of them.

    Raises:
        SourceError: the declaration does not fit the graph, or the graph can't do what it says.
    """
    before = module
    after = module.clone()
    names = _matched(before, inputs, what)
    bound: dict[str, int | str] = {}
    loosened: list[tuple[str, int, str]] = []
    own = {info.name: info for info in before.inputs}
    values = {value.name: value for value in after.graph.inputs}
    for theirs, mine in names.items():
        declared, info = inputs[mine], own[theirs]
        shown = ", ".join("?" if dim is None else str(dim) for dim in info.shape)
        clash = f"{what}: input `{mine}` is declared {declared}, but the graph has {info.dtype}[{shown}]"
        if declared.dtype != info.dtype or (info.ranked and len(declared.dims) != len(info.shape)):
            raise SourceError(clash)
        shape = info.shape if info.ranked else (None,) * len(declared.dims)
        for axis, (have, want) in enumerate(zip(shape, declared.dims, strict=True)):
            if isinstance(have, int) and isinstance(want, int) and have != want:
                raise SourceError(clash)
            if isinstance(have, str):
                if bound.setdefault(have, want) != want:
                    raise SourceError(f"{clash}, where `{have}` is one dimension and can't be {bound[have]} and {want}")
            elif isinstance(have, int) and isinstance(want, str):
                loosened.append((mine, axis, want))
        values[theirs].shape = ir.Shape(list(declared.dims))
    _substitute(after, bound, loosened)
    order = [str(value.name) for value in after.graph.inputs if not value.is_initializer()]
    rename_inputs(after, [names.get(name, name) for name in order])
    stored = {value.name: value.shape for value in after.graph.outputs}
    refresh_shapes(after)
    for value in after.graph.outputs:
        if value.shape is None and (kept := stored[value.name]) is not None:
            # Inference lost track (behind a Reshape to a computed shape, say). What the file says still holds,
            # except that a size which became dynamic may stand behind any of its fixed dimensions.
            value.shape = ir.Shape([None if loosened else dim for dim in kept.dims])
    _substitute(after, bound, ())
    renamed = {names.get(name, name): name for name in order}
    note = _check(before, after, renamed, loosened, what, seed)
    return after, [note] if note else []


def _matched(module: Module, inputs: Mapping[str, TensorType], what: str) -> dict[str, str]:
    own = [info.name for info in module.inputs]
    if set(inputs) <= set(own):
        return {name: name for name in inputs}
    if len(inputs) != len(own):
        listed = ", ".join(str(info) for info in module.inputs)
        raise SourceError(f"{what} has {len(own)} inputs ({listed}), but `inputs` gives {len(inputs)}")
    return dict(zip(own, inputs, strict=True))


def _substitute(module: Module, bound: Mapping[str, int | str], loosened: Sequence[tuple[str, int, str]]) -> None:
    """Rename or bind dimensions wherever they stand in the interface, and forget sizes that no longer hold."""
    graph = module.graph
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is None:
            continue
        dims: list[int | str | None] = []
        for dim in value.shape:
            name = dim if isinstance(dim, int) else dim.value
            dims.append(bound.get(name, name) if isinstance(name, str) else name)
        value.shape = ir.Shape(dims)
    if loosened:
        for value in graph.outputs:
            value.shape = None
    module.touch()


def _check(
    before: Module,
    after: Module,
    renamed: Mapping[str, str],
    loosened: Sequence[tuple[str, int, str]],
    what: str,
    seed: int,
) -> str:
    """Run both graphs and compare; return a note on what could not be compared."""
    old_names = [info.name for info in before.outputs]
    try:
        if not loosened:
            sizes = binding_sets(after)[0]
            feeds = seeded_inputs(after, sizes, seed)
            _same(before, after, renamed, [feeds], what, old_names)
            return ""
        fixed = {info.name: info.shape for info in before.inputs}
        batch = [entry for entry in loosened if entry[1] == 0 and fixed[renamed[entry[0]]][0] == 1]
        whole = len(batch) == len(loosened) and len(batch) == len(after.inputs)
        exact = {want: fixed[renamed[name]][axis] for name, axis, want in loosened}
        sets = binding_sets(after)
        at_fixed = {**sets[0], **{name: size for name, size in exact.items() if isinstance(size, int)}}
        _same(before, after, renamed, [seeded_inputs(after, at_fixed, seed)], what, old_names)
        stuck = sorted({name for name, size in exact.items() if all(one[name] == size for one in sets)})
        if stuck:
            raise SourceError(f"{what} runs at no other size of {', '.join(stuck)} than {exact[stuck[0]]}: {_BAKED}")
        if whole:
            _same_rows(before, after, renamed, sets, what, seed)
            return f"{', '.join(sorted({want for _, _, want in batch}))} made dynamic; checked sample by sample"
        with OrtRunner(after) as runner:
            for sizes in sets:
                runner.run(seeded_inputs(after, sizes, seed))
    except (RunError, TargetError) as error:
        raise SourceError(f"{what} does not run with the inputs declared: {error}\n  {_BAKED}") from error
    places = ", ".join(f"`{name}` axis {axis}" for name, axis, _ in loosened)
    return f"{places} made dynamic: it runs at other sizes, but there is nothing to compare its outputs with"


def _same(
    before: Module, after: Module, renamed: Mapping[str, str], runs: list[Arrays], what: str, names: list[str]
) -> None:
    with OrtRunner(before) as old, OrtRunner(after) as new:
        for feeds in runs:
            found = drift(
                old.run({renamed[name]: array for name, array in feeds.items()}),
                dict(zip(names, new.run(feeds).values(), strict=True)),
            )
            if not found.within(TOLERANCE):
                raise SourceError(f"{what} computes something else with the inputs declared: {found}")


def _same_rows(
    before: Module, after: Module, renamed: Mapping[str, str], sets: Sequence[Mapping[str, int]], what: str, seed: int
) -> None:
    with OrtRunner(before) as old, OrtRunner(after) as new:
        for sizes in sets:
            feeds = seeded_inputs(after, sizes, seed)
            count = len(next(iter(feeds.values())))
            rows = [
                old.run({renamed[name]: array[row : row + 1] for name, array in feeds.items()}) for row in range(count)
            ]
            whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
            found = drift(whole, new.run(feeds))
            if not found.within(TOLERANCE):
                raise SourceError(
                    f"{what} mixes the samples of a batch: a batch of {count} differs from its samples run alone "
                    f"({found}), so its batch can't be made dynamic; export it again with a dynamic batch"
                )
