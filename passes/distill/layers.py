"""Where a graph computes what a layer of its source model gave."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import onnx_ir as ir
from mopt.ir.provenance import origins
from mopt.passes.contract import PassError

if TYPE_CHECKING:
    from mopt.ir import Module

_REALS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def layer_value(module: Module, layer: str, whose: str) -> ir.Value:
    """Return the last value that nodes of a source layer compute; a node or a value may be named as well.

    A layer that was fused with others gives what they give together.

    Args:
        layer: its name in the source model.
        whose: `the student` or `` the teacher `x` ``, for messages.

    Raises:
        PassError: nothing in the graph comes from it, or what does is no tensor of reals.
    """
    module.infer_shapes()
    named = [node for node in module.graph if layer in origins(node)] or _inside(module, layer)
    named = named or [node for node in module.graph if layer == node.name]
    values = [value for node in named for value in node.outputs if value.name]
    if not values:
        values = [value for node in module.graph for value in node.outputs if value.name == layer]
    if not values:
        raise PassError(
            _unknown(module, layer, whose),
            help="a layer goes by its name in the source model, a block by what the names of all in it begin with; "
            "nodes and values have theirs too, see `mopt show --graph`",
        )
    found = [value for value in values if value.dtype in _REALS and _computed(value)]
    if not found:
        raise PassError(
            f"layer `{layer}` of {whose} computes nothing that depends on the input and is a tensor of reals",
            node=values[-1].producer().name if values[-1].producer() is not None else None,  # type: ignore[union-attr]
        )
    return found[-1]


def tapped(module: Module, values: list[ir.Value]) -> Module:
    """Return a copy of a module that puts some inner values out as well, behind its own outputs."""
    copy = module.clone()
    wanted = {value.name for value in values}
    have = {value.name for value in copy.graph.outputs}
    for node in copy.graph:
        for value in node.outputs:
            if value.name in wanted and value.name not in have:
                copy.graph.outputs.append(value)
                have.add(value.name)
    copy.touch()
    return copy


def _inside(module: Module, layer: str) -> list[ir.Node]:
    """Return the nodes of the layers below one: a block of a network, `conv1` for `conv1.0` and `conv1.1`."""
    below = (f"{layer}.", f"{layer}/")
    return [node for node in module.graph if any(name.startswith(below) for name in origins(node))]


def _computed(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type != "Constant" and value.const_value is None


def _unknown(module: Module, layer: str, whose: str) -> str:
    names = list(dict.fromkeys(name for node in module.graph for name in origins(node)))
    close = difflib.get_close_matches(layer, names, n=1)
    hint = f"; did you mean `{close[0]}`?" if close else ""
    shown = ", ".join(f"`{name}`" for name in names[:8]) + (", …" if len(names) > 8 else "")
    return f"nothing in {whose} comes from a layer `{layer}`{hint or f'; its layers are {shown}'}"
