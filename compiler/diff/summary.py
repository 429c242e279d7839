"""A diff in one line, for logs and for the head of every rendering."""

from __future__ import annotations

from mopt.diff.model import Diff

MINUS = "−"


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
        counts = [f"{MINUS}{removed}"] * bool(removed) + [f"+{added}"] * bool(added)
        parts.append(f"{' '.join(counts)} {'node' if removed + added == 1 else 'nodes'}")
    if diff.replaced:
        parts.append(f"{len(diff.replaced)} replaced")
    attributes = sum(bool(change.attributes) for change in diff.changed)
    rewired = sum(bool(change.rewired) for change in diff.changed)
    parts += [f"{attributes} with other attributes"] * bool(attributes)
    parts += [f"{rewired} rewired"] * bool(rewired)
    parts += [plural(len(diff.values), "value type")] * bool(diff.values)
    weights = len(diff.weights) + len(diff.weights_added) + len(diff.weights_removed)
    parts += [plural(weights, "weight")] * bool(weights)
    parts += [plural(len(diff.interface), "interface change")] * bool(diff.interface)
    parts += [f"{sum(diff.moved)} weights stored elsewhere"] * bool(sum(diff.moved))
    parts += [plural(len(diff.properties), "property", "properties")] * bool(diff.properties)
    for name, before, after in (
        ("MACs", diff.before.macs, diff.after.macs),
        ("parameters", diff.before.parameters, diff.after.parameters),
        ("weights", diff.before.bytes, diff.after.bytes),
    ):
        change = percentage(before, after)
        if change:
            parts.append(f"{name if name != 'weights' else 'bytes'} {change}")
    return parts


def percentage(before: int, after: int) -> str:
    """Return `−31%`; nothing where the two are equal or nothing was there before."""
    if before == after or not before:
        return ""
    share = 100 * (after - before) / before
    digits = f"{abs(share):.0f}" if abs(share) >= 1 else f"{abs(share):.2g}"
    return f"{MINUS if share < 0 else '+'}{digits}%"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _size(group: object) -> int:
    from mopt.diff.model import Group

    assert isinstance(group, Group)
    return sum(1 + operator.nested for operator in (group.before or group.after))
