"""The sizes of all tensors: inferred, and where that does not say, evaluated for several sizes of the inputs."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
from mopt.analysis.sizes import DEFAULT_BATCH, bind, resolve
from mopt.ir import Module
from mopt.ir.dtypes import dims

Known = dict[ir.Value, tuple[int | None, ...]]
_Shapes = Mapping[str, tuple[int | None, ...]]


def sizes(module: Module) -> tuple[Known, set[tuple[ir.Value, int]]]:
    """Return the sizes of the values of the main graph, None for each that is dynamic, and axes merged with a batch.

    The latter are dynamic as well: batch × a static axis. Their size is given for a batch of one.
    """
    module.infer_shapes()
    values: list[ir.Value] = [*module.graph.inputs, *module.graph.initializers.values()]
    for node in module.graph:
        values.extend(output for output in node.outputs if output.name)
    values = list(dict.fromkeys(values))
    known = {value: dims(value.shape) for value in values}
    first, probed, larger = _probe(module) if any(_open(shape) for shape in known.values()) else ({}, {}, {})
    found: Known = {}
    merged: set[tuple[ir.Value, int]] = set()
    for value, shape in known.items():
        name = value.name or ""
        better = probed.get(name)
        if shape is None:
            if better is None:
                continue
            plain, words = list(better), [None] * len(better)
        else:
            plain, words = [dim if isinstance(dim, int) else None for dim in shape], list(shape)  # type: ignore[arg-type]
        for axis, word in enumerate(words):
            # A name is a dimension that really varies, whatever two probes happen to agree on.
            if plain[axis] is not None or better is None or len(better) != len(plain) or _named(word):
                continue
            plain[axis] = better[axis]
            factor = _factor(axis, name, first, larger)
            if better[axis] is None and factor is not None:
                plain[axis] = factor
                merged.add((value, axis))
        found[value] = tuple(plain)
    return found, merged


def _named(word: object) -> bool:
    return isinstance(word, str) and not word.startswith("unk__")


def _open(shape: tuple[int | str | None, ...] | None) -> bool:
    return shape is None or any(dim is None or (isinstance(dim, str) and dim.startswith("unk__")) for dim in shape)


def _probe(module: Module) -> tuple[_Shapes, _Shapes, _Shapes]:
    """Return the shapes that evaluation finds.

    Returns:
        For the default sizes, a batch of one; those on which two sets of sizes agree, None where they do not; and for
        twice the batch, where there is one, None where not just the batch decides.
    """
    default = bind(module, {})
    every = {name: size * 2 for name, size in default.items()}
    batch = {name: size * 2 if size == DEFAULT_BATCH else size for name, size in default.items()}
    one, two = _shapes(module, default), _shapes(module, every)
    agreed = _where(one, two)
    if one == two or batch == every:
        return one, agreed, two
    return one, agreed, _where(two, _shapes(module, batch))


def _shapes(module: Module, bound: Mapping[str, int]) -> _Shapes:
    return {value.name or "": shape for value, shape in resolve(module.clone(), bound).items()}


def _where(one: _Shapes, other: _Shapes) -> _Shapes:
    """Return the sizes that both agree on, None for the others."""
    return {
        name: tuple(a if a == b else None for a, b in zip(shape, other[name], strict=True))
        for name, shape in one.items()
        if name in other and len(other[name]) == len(shape)
    }


def _factor(axis: int, name: str, one: _Shapes, larger: _Shapes) -> int | None:
    """Return what a dynamic axis holds for each element of the batch, if it grows with the batch alone."""
    if name not in one or name not in larger or len(one[name]) != len(larger[name]):
        return None
    size, doubled = one[name][axis], larger[name][axis]
    return size if size is not None and size > 1 and doubled == 2 * size else None
