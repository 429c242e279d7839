"""Move a graph to another opset by the first way that gives a valid graph which computes the same.

The ways, the surest first: relabelling, where every operator of the graph reads the same in both versions (looked
up in onnx's schemas); onnxscript's converter (newer opsets only); onnx's own (both directions, some operators).
None is trusted: each result is verified, loaded and compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import onnx
from mopt.ir import IRError, Module, from_proto, to_proto, verify
from mopt.ir.provenance import HISTORY, ORIGINS, inherit, stamp_source
from mopt.ir.walk import model_nodes
from mopt.passes.contract import PassError
from mopt.runtime.compare import Drift, compare_modules
from mopt.runtime.contract import RunError, TargetError
from onnx.defs import OpSchema, SchemaError, get_schema

if TYPE_CHECKING:
    from mopt.passes.contract import Context

_EXACT: Final = 1e-4
_DEFAULT: Final = ("", "ai.onnx")


class _NotPossibleError(Exception):
    """One way does not lead there; the message says why."""


def move_to(module: Module, target: int, context: Context) -> tuple[Module, str]:
    """Return the graph at another opset, and the name of what moved it there.

    Raises:
        PassError: every way failed; all reasons are listed.
    """
    ways: list[tuple[str, Callable[[Module, int], Module]]] = [
        ("relabelling", _relabelled),
        ("onnxscript", _by_onnxscript),
        ("onnx", _by_onnx),
    ]
    reasons = []
    for name, way in ways:
        try:
            moved = way(module, target)
            _check(module, moved, target, context)
        except _NotPossibleError as error:
            reasons.append(f"{name}: {error}")
            continue
        return moved, name
    listed = "".join(f"\n  {reason}" for reason in reasons)
    raise PassError(
        f"the graph can't be moved from opset {module.opset} to {target}:{listed}",
        help="choose another opset, or export the model again at the one you need",
    )


def _check(module: Module, moved: Module, target: int, context: Context) -> None:
    if moved.opset != target:
        raise _NotPossibleError(f"it left the graph at opset {moved.opset}")
    violations = verify(moved)
    if violations:
        raise _NotPossibleError(f"its result is invalid: {violations[0].message}")
    try:
        found: Drift = compare_modules(module, moved, seed=context.seed)
    except (TargetError, RunError) as error:
        raise _NotPossibleError(f"its result does not run: {error}") from error
    if not found.within(_EXACT):
        raise _NotPossibleError(f"its result computes something else: {found}")


def _relabelled(module: Module, target: int) -> Module:
    for node in model_nodes(module.model):
        if node.domain not in _DEFAULT:
            continue
        old, new = _schema(node.op_type, module.opset), _schema(node.op_type, target)
        if old is None or new is None:
            raise _NotPossibleError(f"opset {target if old else module.opset} has no {node.op_type}")
        if old.since_version != new.since_version and not _only_wider(old, new):
            raise _NotPossibleError(f"{node.op_type} changed between the two (`{node.name}`)")
    moved = module.clone()
    _set_opset(moved, target)
    moved.touch()
    return moved


def _only_wider(old: OpSchema, new: OpSchema) -> bool:
    """Say whether two versions of an operator differ in nothing but the element types they allow."""
    if old.since_version > new.since_version:
        return False  # what the newer allows, the older may not
    same_attributes = {name: _attribute(value) for name, value in old.attributes.items()} == {
        name: _attribute(value) for name, value in new.attributes.items()
    }
    return (
        same_attributes
        and [(port.name, str(port.option)) for port in old.inputs]
        == [(port.name, str(port.option)) for port in new.inputs]
        and [port.name for port in old.outputs] == [port.name for port in new.outputs]
        and new.deprecated == old.deprecated
    )


def _attribute(attribute: OpSchema.Attribute) -> tuple[str, bool, bytes]:
    return str(attribute.type), attribute.required, attribute.default_value.SerializeToString()


def _schema(operator: str, opset: int) -> OpSchema | None:
    try:
        return get_schema(operator, opset)
    except SchemaError:
        return None


def _by_onnxscript(module: Module, target: int) -> Module:
    from onnxscript import version_converter

    if target < module.opset:
        raise _NotPossibleError("it converts to newer opsets only")
    moved = module.clone()
    try:
        version_converter.convert_version(moved.model, target, fallback=False)
    except Exception as error:  # converters raise anything
        raise _NotPossibleError(_reason(error)) from error
    if any(node.version not in (None, target) for node in model_nodes(moved.model) if node.domain in _DEFAULT):
        raise _NotPossibleError("it left some operators at the old opset")
    _set_opset(moved, target)
    moved.touch()
    return _finished(module, moved, "onnxscript")


def _by_onnx(module: Module, target: int) -> Module:
    try:
        proto = to_proto(module)
        moved = from_proto(onnx.version_converter.convert_version(proto, target))
    except IRError as error:
        raise _NotPossibleError(f"its result can't be read: {error}") from error
    except Exception as error:  # its C++ side raises anything
        raise _NotPossibleError(_reason(error)) from error
    return _finished(module, moved, "onnx")


def _finished(before: Module, moved: Module, way: str) -> Module:
    """Hand provenance on by the names of outputs; a node that is new stands for its nearest known producer."""
    known = {output.name: node for node in model_nodes(before.model) for output in node.outputs if output.name}
    for node in model_nodes(moved.model):
        source = next((known[output.name] for output in node.outputs if output.name in known), None)
        if source is None:
            near = (value.producer() for value in node.inputs if value is not None)
            source = next((other for other in near if other is not None and ORIGINS in other.metadata_props), None)
        if source is None:
            continue
        for key in (ORIGINS, HISTORY):
            if key in source.metadata_props and key not in node.metadata_props:
                node.metadata_props[key] = source.metadata_props[key]
        if source.op_type != node.op_type or len(source.inputs) != len(node.inputs):
            inherit([node], [source], f"convert.opset/{way}")
    stamp_source(moved)
    moved.infer_shapes()
    return moved


def _set_opset(module: Module, target: int) -> None:
    module.model.opset_imports[""] = target
    for function in module.model.functions.values():
        if "" in function.opset_imports:
            function.opset_imports[""] = target
    for node in model_nodes(module.model):
        if node.domain in _DEFAULT and node.version is not None:
            node.version = target


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:240]}" if lines else type(error).__name__
