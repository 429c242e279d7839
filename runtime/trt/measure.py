"""Which shapes the values between parts have at the sizes of a profile: measured on onnxruntime, not guessed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.trt.shapes import Plan
from mopt.runtime.trt.widen import widened

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from mopt.ir.module import Module

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape, Shape]]
"""By value: its shapes at the smallest, likeliest and largest sizes."""

_COUNTED: Final = frozenset({"Compress", "NonMaxSuppression", "NonZero", "StringSplit", "Unique"})
"""Operators whose outputs are as long as their inputs' content makes them."""


def uncertain(module: Module) -> list[ir.Node]:
    """Return the nodes of the main graph whose outputs have sizes that depend on values, and those behind them."""
    from mopt.ir.walk import nested_nodes, subgraphs_of

    tainted: set[ir.Value] = set()
    found = []
    for node in module.graph:
        inner = [one for graph in subgraphs_of(node) for one in nested_nodes(graph)]
        source = any(one.op_type in _COUNTED for one in (node, *inner))
        if source or any(value in tainted for one in (node, *inner) for value in one.inputs):
            fixed = [value.shape is not None and value.shape.is_static() for value in node.outputs]
            tainted.update(value for value, known in zip(node.outputs, fixed, strict=True) if not known)
            found.append(node)
    return found


@dataclass(frozen=True)
class Measured:
    """What runs showed of values: their shapes, and their element types with 16-bit floats as float32."""

    shapes: Shapes
    dtypes: Mapping[str, np.dtype[Any]]


def measure(module: Module, values: Collection[str], plan: Plan, fixed: Mapping[str, float]) -> Measured:
    """Run the module at a plan's smallest, likeliest and largest sizes and look at values.

    Args:
        module: the whole; float32 or 16 bits.
        values: names of values of its main graph.
        plan: the sizes.
        fixed: inputs that always have one value.

    Raises:
        TargetError: the module does not run at these sizes.
    """
    import numpy as np
    from mopt.runtime.inputs import seeded_inputs
    from mopt.runtime.ort import OrtRunner

    opened = widened(module, float16=True)
    opened = module.clone() if opened is module else opened
    graph = opened.graph
    named = {value.name: value for node in graph for value in node.outputs}
    given = {value.name for value in (*graph.inputs, *graph.outputs)}
    graph.outputs.extend(named[name] for name in values if name not in given)
    opened.touch()
    runner = OrtRunner(opened, optimize=False, patterns=False)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    found: dict[str, list[Shape]] = {name: [] for name in values}
    for at in range(3):
        feeds = seeded_inputs(module, {key: sizes[at] for key, sizes in plan.ranges.items()})
        feeds |= {name: np.full_like(feeds[name], fixed[name]) for name in feeds.keys() & fixed.keys()}
        try:
            arrays = {**feeds, **runner.run(feeds)}
        except RunError as error:
            sizes = {key: sizes[at] for key, sizes in plan.ranges.items()}
            raise TargetError(f"onnxruntime does not run the model at {sizes}: {error}") from error
        for name in values:
            found[name].append(arrays[name].shape)
    return Measured(
        {name: _sorted(shapes) for name, shapes in found.items()}, {name: arrays[name].dtype for name in values}
    )


def _sorted(shapes: Sequence[Shape]) -> tuple[Shape, Shape, Shape]:
    """Order each axis: a size that falls where others rise (what is left of a length) has its own extremes."""
    low, likely, high = shapes
    return (
        tuple(map(min, low, likely, high)),
        likely,
        tuple(map(max, low, likely, high)),
    )
