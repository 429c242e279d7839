"""Why a rule does not apply: the nearest miss, for `mopt explain --rule NAME model.onnx`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mopt.ir import provenance
from mopt.rewrite.rule import Miss, Rule
from mopt.rewrite.view import View

if TYPE_CHECKING:
    from mopt.ir.module import Module


@dataclass(frozen=True)
class Explanation:
    """What became of one rule on a module.

    Attributes:
        rule: the rule's name.
        matches: the nodes at which it applies.
        misses: the nodes at which it does not, nearest first, with the reason.
        reason: why it was not tried at all (the operator set is too old, no node of its kind), else empty.
    """

    rule: str
    matches: tuple[str, ...]
    misses: tuple[tuple[str, Miss], ...]
    reason: str = ""


def explain(rule: Rule, module: Module) -> Explanation:
    """Try a rule at every node of a module, changing nothing."""
    if rule.opset > module.opset:
        needed = f"its result needs opset {rule.opset}, the model has {module.opset}"
        return Explanation(rule.name, (), (), needed)
    view = View(module)
    matches, misses = [], []
    for node in module.nodes():
        default = node.domain in ("", "ai.onnx")
        if rule.anchors and not (default and node.op_type in rule.anchors):
            continue
        found = rule.match(view, node)
        label = f"{node.op_type} `{node.name or (node.outputs[0].name if node.outputs else '')}`"
        came_from = provenance.origins(node)
        if came_from and came_from != (node.name,):
            label += f" (from {', '.join(f'`{name}`' for name in came_from[:3] if name)})"
        if isinstance(found, Miss):
            misses.append((label, found))
        else:
            matches.append(label)
    misses.sort(key=lambda item: -item[1].depth)
    reason = ""
    if not matches and not misses:
        reason = f"the model has no {' or '.join(rule.anchors) if rule.anchors else 'nodes'}"
    return Explanation(rule.name, tuple(matches), tuple(misses), reason)


def explain_rule(name: str, module: Module, rules: Iterable[Rule]) -> str:
    """Say in a few lines where a rule applies, or the nearest miss and why it missed.

    Raises:
        KeyError: no rule has that name; the message names the nearest one.
    """
    import difflib

    known = {rule.name: rule for rule in rules}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean `{close[0]}`?" if close else f"; known: {', '.join(sorted(known))}"
        raise KeyError(f"no rewrite rule is called `{name}`{hint}")
    rule = known[name]
    found = explain(rule, module)
    lines = [f"rule `{name}`: {rule.algebra}" if rule.algebra else f"rule `{name}`"]
    if found.matches:
        lines.append(f"applies at {len(found.matches)} node{'s' if len(found.matches) > 1 else ''}:")
        lines += [f"  {label}" for label in found.matches[:10]]
        if len(found.matches) > 10:
            lines.append(f"  … and {len(found.matches) - 10} more")
    elif found.reason:
        lines.append(f"does not apply: {found.reason}")
    if found.misses:
        label, miss = found.misses[0]
        lines.append(f"nearest miss: {label}")
        lines.append(f"  because {miss.reason}")
        rest: dict[str, int] = {}
        for _, other in found.misses[1:]:
            rest[other.reason] = rest.get(other.reason, 0) + 1
        for reason, count in sorted(rest.items(), key=lambda item: -item[1])[:5]:
            lines.append(f"  {count} more: {reason}")
    return "\n".join(lines) + "\n"
