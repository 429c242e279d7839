"""A diff in one line, for logs and for the head of every rendering."""

from __future__ import annotations

from mopt.diff.model import Diff, Group
from mopt.rendering.quantities import MINUS, change, plural


def summary(diff: Diff) -> str:
    """Return one line: `−12 +3 nodes, 4 replaced, 2 weights, MACs −31%`."""
    if diff.is_empty:
        return "no change"
    if diff.only_renames:
        return f"no change but {plural(len(diff.renames), 'name')}"
    return ", ".join(_parts(diff))


def _parts(diff: Diff) -> list[str]:
    parts: list[str] = []
    removed, added = (sum(map(_size, groups)) for groups in (diff.removed, diff.added))
    if removed or added:
        parts.append(f"{_signed(removed, added)} {'node' if removed + added == 1 else 'nodes'}")
    parts += [f"{len(diff.replaced)} replaced"] * bool(diff.replaced)
    attributes = sum(bool(item.attributes) for item in diff.changed)
    parts += [f"{attributes} with other attributes"] * bool(attributes)
    rewired = sum(bool(item.rewired) for item in diff.changed)
    parts += [f"{rewired} rewired"] * bool(rewired)
    parts += [plural(len(diff.weights), "weight")] * bool(diff.weights)
    parts += [plural(len(diff.values), "value type")] * bool(diff.values)
    parts += [plural(len(diff.interface), "interface change")] * bool(diff.interface)
    for name, before, after in (
        ("MACs", diff.before.macs, diff.after.macs),
        ("parameters", diff.before.parameters, diff.after.parameters),
        ("bytes", diff.before.bytes, diff.after.bytes),
    ):
        percent = change(before, after)
        parts += [f"{name} {percent}"] * bool(percent)
    return parts or _minor_parts(diff)


def _minor_parts(diff: Diff) -> list[str]:
    """Return what is worth a word only where nothing else changed."""
    parts: list[str] = []
    if diff.weights_added or diff.weights_removed:
        parts.append(f"{_signed(len(diff.weights_removed), len(diff.weights_added))} weights")
    parts += [f"{plural(sum(diff.moved), 'weight')} stored elsewhere"] * bool(sum(diff.moved))
    parts += [plural(len(diff.properties), "property", "properties")] * bool(diff.properties)
    return parts


def _signed(removed: int, added: int) -> str:
    return " ".join([f"{MINUS}{removed:,}"] * bool(removed) + [f"+{added:,}"] * bool(added))


def _size(group: Group) -> int:
    return sum(1 + operator.nested for operator in (group.before or group.after))
