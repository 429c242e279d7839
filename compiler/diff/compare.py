"""The comparison of two modules as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mopt.analysis.cost import Cost, cost
from mopt.diff import listing
from mopt.diff.interface import changes as interface_changes
from mopt.diff.model import Diff, PropertyChange, Side, StepEffect
from mopt.diff.prints import Prints
from mopt.diff.scope import Scope
from mopt.diff.scopes import ScopeMatcher
from mopt.diff.weight_changes import WeightComparison
from mopt.ir.module import Module


@dataclass(frozen=True)
class Input:
    """One side as it comes in; its cost where the caller knows it."""

    module: Module
    label: str
    cost: Cost | None


def compare(a: Input, b: Input, *, weights: bool, bindings: Mapping[str, int] | None, step: str | None) -> Diff:
    """Compare two modules; see `mopt.diff.diff`."""
    prints = Prints()
    # One canonical direction, so that the two directions of a diff are each other's mirror.
    if _comes_after(a.module, b.module, prints, weights):
        return _compare(b, a, prints, weights, bindings, step).mirrored()
    return _compare(a, b, prints, weights, bindings, step)


def _compare(
    one: Input, other: Input, prints: Prints, weights: bool, bindings: Mapping[str, int] | None, step: str | None
) -> Diff:
    a, b = one.module, other.module
    by = (step,) if step else ()
    matched = ScopeMatcher(a, b, prints, weights=weights)
    main = matched.pairs[0]
    compared = WeightComparison(matched, prints, by, contents=weights)
    groups = [group for pair in matched.pairs for group in listing.groups(pair, by)]
    changed = [change for pair in matched.pairs for change in listing.node_changes(pair, by)]
    values = [change for pair in matched.pairs for change in listing.value_changes(pair, by)]
    interface = interface_changes("input", main.a.inputs, main.b.inputs, main.inputs)
    interface += interface_changes("output", list(a.graph.outputs), list(b.graph.outputs), main.outputs)
    how = Counter(how for pair in matched.pairs for how in pair.pairing.how.values())
    by_change = [item.by for listed in (groups, changed, values, compared.changed) for item in listed]
    responsible = Counter(entry for entries in by_change for entry in entries)
    return Diff(
        before=_side(one, matched.everything[0], bindings),
        after=_side(other, matched.everything[1], bindings),
        matched=how.total(),
        by_provenance=how["provenance"],
        groups=tuple(groups),
        changed=tuple(changed),
        values=tuple(values),
        weights=tuple(compared.changed),
        weights_added=tuple(compared.added),
        weights_removed=tuple(compared.removed),
        weights_compared=weights,
        moved=(compared.moved[0], compared.moved[1]),
        interface=tuple(interface),
        properties=tuple(_properties(a, b)),
        renames=tuple(rename for pair in matched.pairs for rename in listing.renames(pair)) + tuple(compared.renames),
        steps=tuple(StepEffect(entry, count) for entry, count in responsible.most_common()),
    )


def _side(given: Input, scopes: list[Scope], bindings: Mapping[str, int] | None) -> Side:
    held = [weight for scope in scopes for weight in scope.weights if weight.own]
    totals = given.cost or cost(given.module, bindings)
    return Side(
        given.label,
        nodes=sum(len(scope.operators) for scope in scopes),
        constants=sum(weight.stored == "constant" for weight in held),
        weights=len(held),
        parameters=totals.parameters,
        nonzero=totals.nonzero,
        macs=totals.macs,
        bytes=totals.bytes,
    )


def _properties(a: Module, b: Module) -> list[PropertyChange]:
    first, second = _told(a), _told(b)
    return [
        PropertyChange(name, first.get(name), second.get(name))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def _told(module: Module) -> dict[str, str]:
    model = module.model
    told = {"IR version": str(model.ir_version)}
    told |= {f"opset {domain or 'ai.onnx'}": str(version) for domain, version in model.opset_imports.items()}
    told |= {f"metadata {key}": text for key, text in model.metadata_props.items() if not key.startswith("mopt.")}
    told |= {f"function {f.domain}::{f.name}": "defined" for f in model.functions.values()}
    return told


def _comes_after(a: Module, b: Module, prints: Prints, weights: bool) -> bool:
    """Tell which of two modules is the greater, in some total order of their contents: cheap keys first."""
    keys: tuple[Callable[[Module], Any], ...] = (
        _interface_key,
        _nodes_key,
        lambda module: _weights_key(module, prints, weights),
    )
    for key in keys:
        first, second = key(a), key(b)
        if first != second:
            return bool(first > second)
    return False


def _interface_key(module: Module) -> tuple[Any, ...]:
    interface = [str(info) for info in (*module.inputs, *module.outputs)]
    return (len(module.graph), interface, sorted(_told(module).items()))


def _nodes_key(module: Module) -> list[Any]:
    return [
        (
            node.op_type,
            node.name or "",
            [value.name or "" if value is not None else "" for value in node.inputs],
            [value.name or "" for value in node.outputs],
            [(name, "" if attribute.is_ref() else str(attribute.value)) for name, attribute in _plain(node)],
        )
        for node in module.nodes(functions=True)
    ]


def _weights_key(module: Module, prints: Prints, weights: bool) -> list[Any]:
    return [(weight.name, prints.of(weight.tensor) if weights else ()) for weight in module.weights()]


def _plain(node: Any) -> list[tuple[str, Any]]:
    words = ("INT", "INTS", "FLOAT", "FLOATS", "STRING", "STRINGS")
    return sorted((name, attribute) for name, attribute in node.attributes.items() if attribute.type.name in words)
