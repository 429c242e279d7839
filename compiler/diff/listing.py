"""Puts a matched pair of scopes into words: groups, changed nodes, changed values, renames."""

from __future__ import annotations

from collections.abc import Iterator

from mopt.diff.attributes import parameter_name
from mopt.diff.groups import Region, new_history
from mopt.diff.interface import tensor_facts
from mopt.diff.model import (
    AttributeChange,
    Group,
    NodeChange,
    Operator,
    Rename,
    Rewiring,
    Shape,
    TensorFacts,
    ValueChange,
)
from mopt.diff.scope import Kind, Scope, Source, nested_count
from mopt.diff.scopes import ScopePair
from mopt.ir import provenance


def operator(scope: Scope, number: int) -> Operator:
    """Describe one operator."""
    node = scope.operators[number]
    outputs = tuple(value.name or "" for value in node.outputs)
    return Operator(
        scope.path,
        node.name or next((name for name in outputs if name), ""),
        scope.types[number],
        outputs,
        provenance.origins(node),
        nested_count(scope, number),
    )


def groups(pair: ScopePair, by: tuple[str, ...]) -> list[Group]:
    """List the groups, in the order in which they stand in the graphs."""
    found = [(_place(pair, region), _group(pair, region, by)) for region in pair.regions.all]
    return [group for _, group in sorted(found, key=lambda item: item[0])]


def node_changes(pair: ScopePair, by: tuple[str, ...]) -> list[NodeChange]:
    """List the paired operators with other attributes or other inputs."""
    found = []
    for x, y in _pairs(pair):
        attributes = _attribute_changes(pair.a.attributes[x], pair.b.attributes[y])
        rewired = _rewirings(pair, x, y)
        if attributes or rewired:
            history = new_history(pair.pairing, {x}, {y}) or by
            found.append(NodeChange(operator(pair.a, x), operator(pair.b, y), attributes, rewired, history))
    return found


def value_changes(pair: ScopePair, by: tuple[str, ...]) -> list[ValueChange]:
    """List values of other element type or shape; dimensions that either side leaves open are no difference."""
    found = []
    for x, y in _pairs(pair):
        outputs = zip(pair.a.operators[x].outputs, pair.b.operators[y].outputs, strict=False)
        for position, (value_a, value_b) in enumerate(outputs):
            if not pair.a.path and Source(Kind.NODE, x, position) in pair.a.exits:
                continue  # reported with the interface
            before, after = tensor_facts(value_a), tensor_facts(value_b)
            if _differ(before, after):
                history = new_history(pair.pairing, {x}, {y}) or by
                found.append(ValueChange(before, after, operator(pair.b, y), history))
    return found


def renames(pair: ScopePair) -> list[Rename]:
    """List the nodes, values and weights that only changed their names."""
    found: list[Rename] = []
    interface = {value for scope in (pair.a, pair.b) for value in (*scope.inputs, *scope.graph.outputs)}
    for x, y in _pairs(pair):
        node_a, node_b = pair.a.operators[x], pair.b.operators[y]
        if node_a.name != node_b.name:
            found.append(Rename("node", node_a.name or "", node_b.name or ""))
        for value_a, value_b in zip(node_a.outputs, node_b.outputs, strict=False):
            if value_a.name != value_b.name and not {value_a, value_b} & interface:
                found.append(Rename("value", value_a.name or "", value_b.name or ""))
    return found


def _pairs(pair: ScopePair) -> Iterator[tuple[int, int]]:
    return ((x, y) for x, y in enumerate(pair.pairing.to_b) if y >= 0)


def _place(pair: ScopePair, region: Region) -> tuple[float, int]:
    shares = [number / len(pair.a.operators) for number in region.before]
    shares += [number / len(pair.b.operators) for number in region.after]
    return min(shares), min(region.before or region.after)


def _group(pair: ScopePair, region: Region, by: tuple[str, ...]) -> Group:
    before, after = sorted(region.before), sorted(region.after)
    side = 0 if len(before) >= len(after) else 1
    scope = (pair.a, pair.b)[side]
    return Group(
        tuple(operator(pair.a, number) for number in before),
        tuple(operator(pair.b, number) for number in after),
        tuple((before.index(x), after.index(y)) for x, y in sorted(region.kept)),
        _names(scope, pair.regions.reads(region, side)),
        _names(scope, pair.regions.gives(region, side)),
        region.constant,
        region.duplicate,
        new_history(pair.pairing, region.before, region.after) or _history_around(pair, region) or by,
    )


def _history_around(pair: ScopePair, region: Region) -> tuple[str, ...]:
    """Return what lately happened to the neighbours of a group that left nothing behind."""
    if region.before and region.after:
        return ()
    side = 0 if region.before else 1
    scope, partners = ((pair.a, pair.pairing.to_b), (pair.b, pair.pairing.to_a))[side]
    near = [source.number for source in pair.regions.reads(region, side) if source.kind == Kind.NODE]
    near += [use.operator for source in pair.regions.gives(region, side) for use in scope.feeds(source)]
    for number in near:
        partner = partners[number]
        if partner >= 0:
            x, y = (number, partner) if side == 0 else (partner, number)
            history = new_history(pair.pairing, {x}, {y})
            if history:
                return history
    return ()


def _names(scope: Scope, sources: list[Source]) -> tuple[str, ...]:
    values = (scope.value(source) for source in sources)
    return tuple(value.name or "" for value in values if value is not None)


def _attribute_changes(before: dict[str, str], after: dict[str, str]) -> tuple[AttributeChange, ...]:
    if before == after:
        return ()
    names = sorted(before.keys() | after.keys())
    return tuple(
        AttributeChange(name, before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    )


def _rewirings(pair: ScopePair, x: int, y: int) -> tuple[Rewiring, ...]:
    regions = pair.regions
    in_group = x in regions.of[0] and regions.of[0][x] is regions.of[1].get(y)
    found = []
    for slot, (sa, sb) in enumerate(pair.pairing.slots(x, y)):
        if pair.pairing.corresponds(sa, sb) or in_group or regions.explains(sa, sb):
            continue
        node = pair.a.operators[x] if slot < pair.a.explicit[x] else pair.b.operators[y]
        scope = pair.a if slot < pair.a.explicit[x] else pair.b
        found.append(
            Rewiring(slot, parameter_name(node, slot, scope.version(node)), _name(pair.a, sa), _name(pair.b, sb))
        )
    return tuple(found)


def _name(scope: Scope, source: Source) -> str | None:
    value = scope.value(source)
    return value.name if value is not None else None


def _differ(before: TensorFacts, after: TensorFacts) -> bool:
    if before.dtype and after.dtype and before.dtype != after.dtype:
        return True
    return _shapes_differ(before.shape, after.shape)


def _shapes_differ(before: Shape | None, after: Shape | None) -> bool:
    if before is None or after is None:
        return False
    if len(before) != len(after):
        return True
    return any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(before, after, strict=True))
