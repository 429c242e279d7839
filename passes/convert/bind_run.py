"""Fixing the sizes and values of a module's inputs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.naming import fresh
from mopt.ir.walk import graph_values, nested_graphs
from mopt.passes.contract import Note, PassError, PassResult
from mopt.runtime.dimensions import dynamic_dimensions


def bind(module: Module, sizes: Mapping[str, int], values: Mapping[str, float]) -> PassResult:
    """Bind `sizes` (by dimension) and `values` (by input) in place. See `Bind.run`."""
    wrong = [f"`{name}` {size}" for name, size in sorted(sizes.items()) if size < 1]
    if wrong:
        raise PassError(f"a size is a whole number from 1 on, not {', '.join(wrong)}")
    bound = _sizes(module, sizes)
    fixed = [name for name in sorted(values) if _value(module, name, values[name])]
    if not bound and not fixed:
        return PassResult(module, False)
    module.touch()
    module.infer_shapes()
    notes = [Note("right for " + ", ".join([*bound, *(f"{name} = {values[name]:g}" for name in fixed)]) + " alone")]
    return PassResult(module, True, tuple(notes))


def _sizes(module: Module, sizes: Mapping[str, int]) -> list[str]:
    places = {
        place: dimension.key
        for dimension in dynamic_dimensions(module)
        if dimension.key in sizes
        for place in dimension.places
    }
    names = set(places.values())
    for value in module.graph.inputs:
        if value.shape is not None:
            key = [places.get((value.name or "", axis)) for axis in range(len(value.shape))]
            value.shape = ir.Shape(
                [size if name is None else sizes[name] for name, size in zip(key, value.shape, strict=True)]
            )
    # A name is one size wherever it stands, also at values that inference does not reach.
    for graph in nested_graphs(module.graph):
        for value in graph_values(graph):
            if value.shape is not None and any(str(getattr(size, "value", "")) in names for size in value.shape):
                value.shape = ir.Shape([sizes.get(str(getattr(size, "value", "")), size) for size in value.shape])
    return [f"{name} = {sizes[name]}" for name in sorted(names)]


def _value(module: Module, name: str, number: float) -> bool:
    given = next((value for value in module.graph.inputs if value.name == name), None)
    if given is None or not given.uses():
        return False
    shape = [size for size in given.shape or () if isinstance(size, int)]
    if given.dtype is None or given.shape is None or len(shape) < len(given.shape):
        raise PassError(
            f"input `{name}` can't have one value: its shape is not fixed", help="bind its dimensions as well (`sizes`)"
        )
    array = np.full(shape, number).astype(given.dtype.numpy())
    if not np.isclose(array.astype(np.float64), number, rtol=1e-2).all():
        raise PassError(f"input `{name}` is {given.dtype.name.lower()} and can't be {number:g}")
    names = {value.name for graph in nested_graphs(module.graph) for value in graph_values(graph) if value.name}
    label = fresh(f"{name}_fixed", names)
    constant = ir.Value(name=label, shape=given.shape, type=given.type, const_value=ir.Tensor(array, name=label))
    module.graph.initializers[label] = constant
    # A graph's output that is the input itself stays it.
    given.replace_all_uses_with(constant)
    return True
