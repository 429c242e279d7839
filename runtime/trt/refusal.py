"""What TensorRT refuses, in words: which node, of which source layer, made by which step, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import TargetError

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.ir.module import Module

_NAMES: Final = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT for RTX"}
_SHOWN: Final = 5
_SOURCE: Final = re.compile(r"\s*In \w+ at /?[\w./]+:\d+")
_LABEL: Final = re.compile(r"^(?:\[[\w.:]+\]|\w+::\w+:)?\s*Error Code \d+: [\w ]+? ?\((?P<said>.*)\)$", re.DOTALL)
_CONDITION: Final = re.compile(r'^.*&&\s*"(?P<said>.*)"$', re.DOTALL)
_NOISE: Final = ("cudaError", "Invalid Node - ")
"""Lines of a refusal that say nothing of it: without a GPU every failed call reports the missing driver as well."""
_INPUTS: Final = frozenset({"i16", "u16", "u32", "u64", "string", "c64", "c128"})
"""Element types of inputs that the parser refuses without naming the input."""


class RefusedError(TargetError):
    """TensorRT refuses a model.

    Attributes:
        nodes: by the names of the main graph's nodes that it names, why; empty where it names none.
    """

    def __init__(self, message: str, *, help: str, nodes: Mapping[str, str]) -> None:
        super().__init__(message, help=help)
        self.nodes = nodes


def refusal(library: str, answer: Mapping[str, Any], module: Module) -> RefusedError:
    """Word the parser's or the builder's errors.

    Args:
        library: which library refused.
        answer: what the builder process answered: `stage`, `library_version`, `errors` (node, operator, message,
            and `input` where one is to blame).
        module: what was to be built, with its provenance.
    """
    nodes = {node.name: node for node in module.nodes() if node.name}
    told = [_told(error, nodes, module) for error in answer["errors"][:_SHOWN]]
    more = len(answer["errors"]) - len(told)
    culprits = _culprits(answer["errors"], nodes, module)
    help = "`partition=true` runs what it refuses with onnxruntime; or emit this pipeline for `ort` alone"
    if not culprits and (branches := _branches(module)):
        for node, inputs in branches.items():
            culprits[node.name or ""] = told[0] if told else "no reason given"
            told.append(f"{described(node)} branches on {' and '.join(f'`{name}`' for name in inputs) or 'values'}")
        decided = ", ".join(f"{name}: …" for name in dict.fromkeys(sum(branches.values(), ())))
        help = f"fix what decides the branch, `trt(values={{{decided}}})`; or: {help}"
    reasons = "; ".join(dict.fromkeys(told)) or "no reason given"
    if more > 0:
        reasons += f"; and {more} more"
    verb = "can't take the model" if answer["stage"] == "parse" else "can't build an engine for it"
    return RefusedError(f"{_NAMES[library]} {answer['library_version']} {verb}: {reasons}", help=help, nodes=culprits)


def _branches(module: Module) -> dict[ir.Node, tuple[str, ...]]:
    """Return the main graph's `If` nodes and, for each, the inputs of the model that its condition depends on."""
    import networkx

    view = module.dataflow()
    found = {}
    for node in module.graph:
        if node.op_type != "If":
            continue
        condition = node.inputs[0]
        start = None if condition is None else condition.producer() or condition
        above = set() if start not in view else {start, *networkx.ancestors(view, start)}
        found[node] = tuple(value.name or "" for value in module.graph.inputs if value in above)
    return found


def readable(message: str, operator: str = "") -> str:
    """Reduce a message of the parser or the builder to what it says of the model."""
    found = [line for line in map(_line, message.splitlines()) if line and not any(noise in line for noise in _NOISE)]
    text = "; ".join(dict.fromkeys(found))
    if text in ("", "false"):
        return f"it has no operator {operator}" if operator else "it gives no reason"
    if "Plugin not found" in text:
        return f"it has no operator {operator}, nor a plug-in of that name" if operator else text
    return text


def _line(text: str) -> str:
    text = _SOURCE.sub("", text.strip())
    if match := _LABEL.match(text):
        text = match["said"].strip()
    text = text.removeprefix("Assertion failed: ")
    if match := _CONDITION.match(text):
        text = match["said"]
    return text.strip().replace("ONNX date type", "ONNX data type")


def _told(error: Mapping[str, Any], nodes: Mapping[str, ir.Node], module: Module) -> str:
    said = readable(error["message"], error["operator"])
    node = nodes.get(error["node"]) or _mentioned(error["message"], nodes)
    if node is not None:
        return f"{described(node)}: {said}"
    if error["node"] or error["operator"]:
        return f"node `{error['node']}` ({error['operator']}): {said}"
    if error.get("input"):
        return f"input `{error['input']}`: {said}"
    refused = [f"input `{port.name}` is {port.dtype}" for port in module.inputs if port.dtype in _INPUTS]
    return f"{' and '.join(refused)}: {said}" if refused and "data type" in said else said


def described(node: ir.Node) -> str:
    """Name a node: its operator, the source layers it stands for, the step that made it."""
    from mopt.ir import provenance

    layers = [name for name in provenance.origins(node) if name != node.name][:3]
    steps = [entry.split("/")[0] for entry in provenance.history(node)]
    of = f" of layer {', '.join(f'`{name}`' for name in layers)}" if layers else ""
    made = f", made by `{steps[-1]}`" if steps else ""
    return f"node `{node.name}` ({node.op_type}){of}{made}"


def _culprits(errors: Sequence[Mapping[str, Any]], nodes: Mapping[str, ir.Node], module: Module) -> dict[str, str]:
    """Return the main graph's nodes that errors name, with the reasons."""
    from mopt.ir.walk import captures, subgraphs_of

    found = {}
    lacking = {port.name for port in module.inputs if port.dtype in _INPUTS}
    for error in errors:
        said = readable(error["message"], error["operator"])
        named = nodes.get(error["node"]) or _mentioned(error["message"], nodes)
        inputs = {error["input"]} if error.get("input") else lacking if named is None else set()
        for node in module.graph:
            inner = [one for graph in subgraphs_of(node) for one in graph.all_nodes()]
            used = {value.name for value in (*node.inputs, *captures(node)) if value is not None}
            if named is node or (named is not None and named in inner) or inputs & used:
                found[node.name or ""] = said
    return found


def _mentioned(message: str, nodes: Mapping[str, ir.Node]) -> ir.Node | None:
    """Find the node whose name a message of the builder contains (its layers are called after them)."""
    words: Sequence[str] = sorted((name for name in nodes if len(name) > 2 and name in message), key=len)
    return nodes[words[-1]] if words else None
