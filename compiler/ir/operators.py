"""Invariants of operators: known at the imported opset, with the inputs, outputs and attributes of their schema.

Operators of other domains than ONNX's own (`com.microsoft`, a user's) are taken as they are: only their domain has
to be imported, as the specification asks.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from mopt.ir.invariant import Violation
from mopt.ir.module import Module
from mopt.ir.walk import nested_nodes
from onnx.defs import OpSchema

ONNX_DOMAINS = ("", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.preview")
"""Domains whose operators onnx itself defines."""


def check_opsets(module: Module) -> Iterator[Violation]:
    """Every imported version of an ONNX domain is one that the installed onnx knows; functions import, too."""
    if not module.model.opset_imports:
        yield Violation("opsets", "the model imports no operator set")
    known = onnx.defs.onnx_opset_version()
    for scope, imports in _imports(module):
        version = imports.get("", 1)
        if not 1 <= version <= known:
            yield Violation("opsets", f"{scope} imports opset {version}; onnx {onnx.__version__} knows 1 to {known}")


def check_operators(module: Module) -> Iterator[Violation]:
    """Every node's operator exists at its opset, and its inputs, outputs and attributes are those of the schema."""
    local = set(module.model.functions)
    yield from _check_nodes(nested_nodes(module.graph), module.model.opset_imports, local)
    for function in module.model.functions.values():
        imports = function.opset_imports or module.model.opset_imports
        yield from _check_nodes(nested_nodes(function.graph), imports, local)


def schema_of(node: ir.Node, imports: dict[str, int]) -> OpSchema | None:
    """Return the schema of a node's operator at the imported version, or None if onnx has none."""
    version = imports.get(node.domain)
    if version is None:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, max_inclusive_version=version, domain=node.domain)
    except onnx.defs.SchemaError:
        return None


def _imports(module: Module) -> Iterator[tuple[str, dict[str, int]]]:
    yield "the model", module.model.opset_imports
    for function in module.model.functions.values():
        yield f"function `{function.name}`", function.opset_imports


def _check_nodes(
    nodes: Iterator[ir.Node], imports: dict[str, int], local: set[tuple[str, str, str]]
) -> Iterator[Violation]:
    for node in nodes:
        name = node.name or ""
        if node.op_identifier() in local:
            continue
        if node.domain not in imports:
            yield Violation("operators", f"domain `{node.domain}` of {node.op_type} is not imported", name)
            continue
        if node.domain not in ONNX_DOMAINS:
            continue
        schema = schema_of(node, imports)
        if schema is None:
            version = imports[node.domain]
            yield Violation("operators", f"{node.op_type} does not exist at opset {version}", name)
            continue
        if schema.deprecated:
            yield Violation("operators", f"{node.op_type} was removed in opset {schema.since_version}", name)
            continue
        yield from _check_signature(node, schema)


def _check_signature(node: ir.Node, schema: OpSchema) -> Iterator[Violation]:
    name = node.name or ""
    given, results = _last_given(node), len(node.outputs)
    if not schema.min_input <= given <= schema.max_input:
        wanted = _span(schema.min_input, schema.max_input)
        yield Violation("operators", f"{node.op_type} takes {wanted} inputs, not {given}", name)
    for index, formal in enumerate(schema.inputs):
        required = formal.option == OpSchema.FormalParameterOption.Single
        if required and index < len(node.inputs) and node.inputs[index] is None:
            yield Violation("operators", f"{node.op_type} lacks its input {index}, `{formal.name}`", name)
    if not schema.min_output <= results <= schema.max_output:
        wanted = _span(schema.min_output, schema.max_output)
        yield Violation("operators", f"{node.op_type} gives {wanted} outputs, not {results}", name)
    for key, attribute in node.attributes.items():
        known = schema.attributes.get(key)
        if known is None:
            yield Violation("operators", f"{node.op_type} has no attribute `{key}`", name)
        elif known.type.value != attribute.type.value:  # type: ignore[attr-defined]
            yield Violation("operators", f"attribute `{key}` of {node.op_type} is {attribute.type.name}", name)
    for key, known in schema.attributes.items():
        if known.required and key not in node.attributes:
            yield Violation("operators", f"{node.op_type} lacks its attribute `{key}`", name)


def _last_given(node: ir.Node) -> int:
    return max((index + 1 for index, value in enumerate(node.inputs) if value is not None), default=0)


def _span(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"at least {low}" if high > 1_000_000 else f"{low} to {high}"
