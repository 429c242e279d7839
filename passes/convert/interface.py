"""The interface of a lowered model: input and output names, declared shapes, names of dynamic dimensions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import onnx_ir as ir
from mopt.ir.dtypes import from_word
from mopt.ir.module import Module
from mopt.ir.walk import model_graphs
from mopt.passes.convert.agreement import Observation
from mopt.runtime.contract import SourceError
from mopt.values import TensorType

_DATA_DEPENDENT = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "Loop", "StringSplit"})
"""Operators whose output shapes may follow from values: two runs that agree prove nothing about the next."""


def rename_inputs(module: Module, names: Sequence[str]) -> None:
    """Name the graph's inputs, in order. Inner values that have such a name get another."""
    _rename(module, [value for value in module.graph.inputs if not value.is_initializer()], names)


def rename_outputs(module: Module, names: Sequence[str]) -> None:
    """Name the graph's outputs, in order.

    Raises:
        SourceError: there are more or fewer outputs than names.
    """
    graph = module.graph
    if len(graph.outputs) != len(names):
        have = ", ".join(f"`{value.name}`" for value in graph.outputs)
        raise SourceError(f"`outputs` names {len(names)} outputs, but the model has {len(graph.outputs)}: {have}")
    if len(set(names)) != len(names):
        raise SourceError("`outputs` names one output twice")
    # an output that is an input, a weight, or a value given twice needs a value of its own to carry the name
    seen: set[int] = set()
    for position, value in enumerate(graph.outputs):
        if value.is_graph_input() or value.is_initializer() or id(value) in seen:
            node = ir.node("Identity", [value], name=f"{names[position]}_identity")
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            graph.append(node)
            graph.outputs[position] = node.outputs[0]
        seen.add(id(graph.outputs[position]))
    _rename(module, list(graph.outputs), names)
    module.touch()


def set_input_types(module: Module, inputs: Mapping[str, TensorType]) -> None:
    """Write declared shapes into the graph's inputs, put them into the declared order, add those it dropped.

    An exporter drops an input that nothing depends on; the interface keeps it all the same.

    Raises:
        SourceError: the graph takes another element type than declared, or an input that was not declared.
    """
    graph = module.graph
    present = {value.name: value for value in graph.inputs if not value.is_initializer()}
    strange = [str(name) for name in present if name not in inputs]
    if strange:
        raise SourceError(f"the converted model has inputs that `inputs` does not name: {', '.join(strange)}")
    kept = [value for value in graph.inputs if value.is_initializer()]
    ordered = []
    known = {info.name: info.dtype for info in module.inputs}
    for name, kind in inputs.items():
        value = present.get(name)
        if value is None:
            value = ir.Value(name=name)
            value.type = ir.TensorType(from_word(kind.dtype))
        elif known[name] not in (kind.dtype, "?"):
            raise SourceError(f"input `{name}` is declared {kind.dtype}, but the model takes {known[name]}")
        value.shape = ir.Shape(list(kind.dims))
        ordered.append(value)
    graph.inputs.clear()
    graph.inputs.extend([*ordered, *kept])
    module.touch()


def refresh_shapes(module: Module) -> None:
    """Forget every stored shape that an exporter left behind, and infer them anew from the inputs on."""
    for graph in model_graphs(module.model):
        for node in graph:
            for value in node.outputs:
                value.shape = None
    module.touch()
    module.infer_shapes()
    module.touch()


def settle_output_shapes(
    module: Module, observed: Sequence[Observation], known: Mapping[str, Sequence[int | None]] | None = None
) -> None:
    """Give each output dimension its number or name, by what the source really returned at several sizes.

    A dimension that follows an input's dynamic dimension takes that name; one that never changed, though every
    dynamic dimension did, is a number (unless shapes can follow from values); any other is `OUTPUT_dimAXIS`.

    Args:
        known: for outputs by name, the sizes that the source framework itself guarantees.
    """
    data_dependent = any(node.op_type in _DATA_DEPENDENT for node in module.nodes())
    dynamic = module.dynamic_dims()
    varied = {name for name in dynamic if len({seen.sizes.get(name) for seen in observed}) > 1}
    for value in module.graph.outputs:
        shapes = [seen.shapes[value.name or ""] for seen in observed if value.name in seen.shapes]
        if not shapes or len({len(shape) for shape in shapes}) > 1:
            continue
        inferred = list(value.shape.dims) if value.shape is not None else [None] * len(shapes[0])
        if len(inferred) != len(shapes[0]):
            inferred = [None] * len(shapes[0])
        dims: list[int | str] = []
        for axis in range(len(shapes[0])):
            sizes = [shape[axis] for shape in shapes]
            following = [
                name
                for name in dynamic
                if name in varied and all(seen.sizes[name] == size for seen, size in zip(observed, sizes, strict=False))
            ]
            stored = inferred[axis]
            text = stored if isinstance(stored, int) else getattr(stored, "value", None)
            constant = len(set(sizes)) == 1 and not data_dependent and varied == set(dynamic)
            if text in following or (isinstance(text, int) and set(sizes) == {text}):
                dims.append(text)
            elif following:
                dims.append(following[0])
            elif constant or _guaranteed(known, value.name, axis) == sizes[0]:
                dims.append(sizes[0])
            else:
                dims.append(re.sub(r"\W+", "_", f"{value.name}_dim{axis}"))
        value.shape = ir.Shape(dims)
    module.touch()


def _guaranteed(known: Mapping[str, Sequence[int | None]] | None, name: str | None, axis: int) -> int | None:
    sizes = (known or {}).get(name or "", ())
    return sizes[axis] if axis < len(sizes) else None


def drop_exporter_metadata(module: Module) -> None:
    """Remove what exporters note about themselves: paths and stack traces of the machine, different every time."""
    model = module.model
    model.metadata_props.clear()
    model.producer_name, model.producer_version, model.doc_string, model.domain = "mopt", None, None, None
    for graph in model_graphs(model):
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
            value.doc_string = None
        for node in graph:
            node.doc_string = None
            for key in [key for key in node.metadata_props if not key.startswith("mopt.")]:
                del node.metadata_props[key]
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None


def _rename(module: Module, values: Sequence[ir.Value], names: Sequence[str]) -> None:
    wanted = set(names)
    targets = {id(value) for value in values}
    taken: dict[str, ir.Value] = {}
    for graph in model_graphs(module.model):
        for value in (*graph.inputs, *graph.initializers.values()):
            taken[value.name or ""] = value
        for node in graph:
            for value in node.outputs:
                taken[value.name or ""] = value
    for name in wanted & set(taken):
        if id(taken[name]) not in targets:
            fresh = name
            while fresh in taken or fresh in wanted:
                fresh += "_inner"
            taken[name].name = fresh
            taken[fresh] = taken[name]
    for position, value in enumerate(values):  # by way of names that nothing has: two may trade theirs
        value.name = f"__mopt_renamed_{position}"
    for value, name in zip(values, names, strict=True):
        value.name = name
    module.touch()
