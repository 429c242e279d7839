"""What every module may rely on after loading: sorted, named, typed by one convention.

- Nodes stand in topological order.
- Nodes and values have unique names (`mopt.ir.naming`).
- The default domain is written `""` in the imports, too.
- An initializer that is listed as an input as well is a plain initializer.
- An unknown dimension is unknown (Paddle writes -1 or `?`, tf2onnx `unk__7`); those of the main graph's inputs get a
  name of their own, `<input>_<axis>`, so that they can be bound.
"""

from __future__ import annotations

import re

import onnx_ir as ir
from mopt.ir.dtypes import dims
from mopt.ir.errors import LoadError
from mopt.ir.module import Module
from mopt.ir.naming import fresh, name_everything
from mopt.ir.structure import is_sorted
from mopt.ir.walk import graph_values, model_graphs


def normalise(module: Module) -> None:
    """Bring a freshly read module into this form, in place.

    Raises:
        LoadError: its graph has a cycle.
    """
    for imports in [module.model.opset_imports, *(f.opset_imports for f in module.model.functions.values())]:
        if "ai.onnx" in imports:
            imports.setdefault("", imports.pop("ai.onnx"))
    _fix_defaults(module)
    _sort(module.model)
    name_everything(module.model)
    _name_dims(module)


def _fix_defaults(module: Module) -> None:
    fixed: list[str] = []
    for graph in model_graphs(module.model):
        for value in [value for value in graph.inputs if value.is_initializer()]:
            graph.inputs.remove(value)
            fixed.append(value.name or "")
    if not fixed:
        return
    if module.model.ir_version < 4:
        # Before IR version 4 every initializer had to be an input, and none could be overridden.
        module.model.ir_version = 4
    else:
        count = f"{len(fixed)} inputs have" if len(fixed) > 1 else f"input `{fixed[0]}` has"
        module.notes += (f"{count} a default value and became constant",)


def _sort(model: ir.Model) -> None:
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        if is_sorted(graph):
            continue
        try:
            graph.sort()
        except ValueError as error:
            raise LoadError("invalid model: the graph has a cycle") from error


def _name_dims(module: Module) -> None:
    inputs, outputs = set(module.graph.inputs), set(module.graph.outputs)
    taken = {dim for value in inputs for dim in dims(value.shape) or () if isinstance(dim, str)}
    given: dict[str, str] = {}
    for graph in model_graphs(module.model):
        for value in graph_values(graph):
            known = dims(value.shape)
            if known is None or value.is_initializer():
                continue
            # Inside, placeholders are what inference left there, and tell which dimensions are equal.
            outside = value in inputs or value in outputs
            cleaned = [dim if _is_meant(dim) or (_is_placeholder(dim) and not outside) else None for dim in known]
            if value in inputs:
                base = re.sub(r"\W", "_", value.name or "")
                for axis, dim in enumerate(known):
                    if cleaned[axis] is None:
                        name = fresh(f"{base}_{axis}", taken)
                        # One placeholder on two dimensions means that they are equal, `?` does not.
                        cleaned[axis] = given.setdefault(str(dim), name) if _is_placeholder(dim) else name
            if tuple(cleaned) != known:
                value.shape = ir.Shape(cleaned)


_PLACEHOLDER = re.compile(r"unk__\d+")
"""What converters, and onnx's own inference, call a dimension of which they know nothing."""


def _is_meant(dim: int | str | None) -> bool:
    """Say whether a dimension is a size or a name, rather than one of the ways to write "unknown"."""
    if isinstance(dim, int):
        return dim >= 0
    return dim not in (None, "", "?") and not _is_placeholder(dim)


def _is_placeholder(dim: int | str | None) -> bool:
    return isinstance(dim, str) and _PLACEHOLDER.fullmatch(dim) is not None
