"""What of a module is quantised at all: what is watched, what was seen, what `keep` names, what is out of reach."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import onnx_ir as ir
from mopt.ir import Module, provenance
from mopt.passes.contract import Note, PassError
from mopt.passes.quantize import static_wide
from mopt.passes.quantize.calibration import Calibration
from mopt.passes.quantize.static_stored import STORED
from mopt.passes.quantize.static_transposed import decompose
from mopt.passes.quantize.static_units import WEIGHTED, Unit

if TYPE_CHECKING:
    from mopt.passes.quantize.static import Static

OPSET: Final = 13
"""The first opset whose DequantizeLinear has an axis."""


def observed(units: Sequence[Unit]) -> dict[str, int | None]:
    """Return the values to watch, in topological order, with the channel axis of weighted units' inputs."""
    names: dict[str, int | None] = {}
    for unit in units:
        for value in unit.inputs:
            names.setdefault(value.name or "", None)
            if unit.kind in WEIGHTED:
                names[value.name or ""] = 1 if unit.kind == "conv" else -1
        names.setdefault(unit.result.name or "", None)
    return names


def was_seen(seen: Calibration, value: ir.Value) -> bool:
    """Say whether calibration saw an element of a value."""
    return bool(seen.tensors[value.name or ""].count)


def kept_units(module: Module, units: Sequence[Unit], options: Static) -> set[str]:
    """Return the names of units that `keep` names.

    Raises:
        PassError: a pattern matches no node of the module.
    """
    nodes = list(module.nodes())
    for pattern in options.keep:
        if not any(_matches(node, pattern) for node in nodes):
            raise PassError(f'`keep=["{pattern}"]` matches no layer of the module', help="`mopt show` lists them")
    return {
        unit.name
        for unit in units
        if any(_matches(node, pattern) for node in (unit.node, *unit.folded[:1]) for pattern in options.keep)
    }


def _matches(node: ir.Node, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (*provenance.origins(node), node.name or ""))


def is_stored(node: ir.Node, options: Static) -> bool:
    """Say whether a node's weights are kept in 8 bits although it runs in float."""
    return node.domain == "" and node.op_type in STORED and not any(_matches(node, pattern) for pattern in options.keep)


def rewritten_for(module: Module, options: Static) -> list[Note]:
    """Give onnxruntime forms that it has integer kernels for."""
    if options.placement != "onnxruntime" or static_wide.is_wide(options):
        return []
    nodes = [node for node in module.graph if node.op_type == "ConvTranspose" and is_stored(node, options)]
    notes = decompose(module, nodes)
    if notes:
        module.infer_shapes()
    return notes


def inner_notes(module: Module) -> list[Note]:
    """Say what is out of reach: nodes of inner graphs and functions, custom operators."""
    outer = set(module.graph)
    weighted = ("Conv", "MatMul", "Gemm", "ConvTranspose", "LSTM", "GRU")
    inner = tuple(
        node.name or "" for node in module.nodes(functions=True) if node not in outer and node.op_type in weighted
    )
    custom = tuple(node.name or "" for node in module.graph if node.domain not in ("", "ai.onnx"))
    notes = [Note(f"{len(inner)} nodes of inner graphs and functions left alone", nodes=inner)] if inner else []
    return notes + ([Note(f"{len(custom)} operators of other domains left alone", nodes=custom)] if custom else [])
