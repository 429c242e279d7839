"""`any(…)`: a pipeline is expanded once per alternative, and its children are expanded along."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mopt.check.references import References
from mopt.check.report import Report
from mopt.check.scope import Scope
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label
from mopt.grammar.format import value_text
from mopt.plugin import PluginError, Registry, schema

MAX_VARIANTS = 256
"""More expansions of one pipeline than this are a slip."""


@dataclass(frozen=True)
class Choice:
    """An `any(…)` of a pipeline: what is chosen (an option, a parameter, `parent`) and among what."""

    label: str
    qualified: str
    node: syntax.AnyValue


@dataclass(frozen=True)
class Taken:
    """The alternatives that one variant takes: by identity of the `any(…)`, and as (label, text) for its name."""

    indices: Mapping[int, int] = field(default_factory=dict)
    texts: tuple[tuple[str, str], ...] = ()

    def with_choice(self, choice: Choice, index: int) -> Taken:
        """Return the same with one more alternative taken."""
        used = {label for label, _ in self.texts}
        label = choice.label
        if label in used:
            label = choice.qualified
        number = 2
        while label in used:
            label = f"{choice.qualified}#{number}"
            number += 1
        text = value_text(choice.node.alternatives[index])
        return Taken({**self.indices, id(choice.node): index}, (*self.texts, (label, text)))

    def name(self, declared: str) -> str:
        """Return the name of a pipeline with these alternatives."""
        if not self.texts:
            return declared
        return f"{declared}[{', '.join(f'{label}={text}' for label, text in self.texts)}]"


class Alternatives:
    """Finds the `any(…)` that the steps of a pipeline hold, directly or through parameters."""

    def __init__(self, scope: Scope, references: References, registry: Registry, report: Report) -> None:
        self._scope = scope
        self._references = references
        self._registry = registry
        self._report = report

    def of_steps(self, steps: tuple[syntax.Step, ...]) -> tuple[list[Choice], dict[int, int]]:
        """Return every choice of some steps in the order in which they are met, and what to take of unsound ones."""
        found: dict[int, Choice] = {}
        for step in steps:
            for choice in self._of_step(step):
                found.setdefault(id(choice.node), choice)
        good: list[Choice] = []
        unsound: dict[int, int] = {}
        for choice in found.values():
            if self.sound(choice.node):
                good.append(choice)
            else:  # reported: the first alternative will do to check the rest
                unsound |= {id(node): 0 for node in _inside(choice.node)}
        return good, unsound

    def sound(self, node: syntax.AnyValue) -> bool:
        """Report an `any` with nothing to choose, the same thing twice, or another `any` inside."""
        report = self._report
        if not node.alternatives:
            report.error("E0311", "`any` needs alternatives", node.span, "nothing to choose from")
            return False
        for index, one in enumerate(node.alternatives):
            if one in node.alternatives[:index]:
                first = node.alternatives[node.alternatives.index(one)]
                message = "the same alternative twice"
                report.error("E0307", message, one.span, "again", secondary=[Label(first.span, "first given here")])
                return False
            if any(True for _ in _inside(one)):
                report.error("E0311", "`any` inside `any`", one.span, "write all alternatives side by side")
                return False
        return True

    def _of_step(self, step: syntax.Step) -> Iterator[Choice]:
        if isinstance(step, syntax.Require):
            for reference in references_of(step):
                yield from self._of_value(reference, "", "")
            return
        names = self._option_names(step.call)
        for index, argument in enumerate(step.call.arguments):
            if argument.name is not None:
                label = argument.name.text
            else:
                label = names[index] if index < len(names) else f"option {index + 1}"
            yield from self._of_value(argument.value, label, f"{step.call.name}.{label}")

    def _option_names(self, call: syntax.Call) -> list[str]:
        try:
            return [option.name for option in schema(self._registry.get("passes", call.name))]
        except (PluginError, NameError, TypeError):
            return []  # reported where the pass is made

    def _of_value(self, node: syntax.Value, label: str, qualified: str) -> Iterator[Choice]:
        if isinstance(node, syntax.AnyValue):
            yield Choice(label, qualified, node)
        elif isinstance(node, syntax.ListValue):
            for item in node.items:
                yield from self._of_value(item, label, qualified)
        elif isinstance(node, syntax.MapValue):
            for entry in node.entries:
                yield from self._of_value(entry.value, entry.key_text, f"{qualified}.{entry.key_text}")
        elif isinstance(node, syntax.Reference):
            names = [node.parts[0].text] if len(node.parts) == 1 and node.slice is None else []
            if node.slice is not None:
                names += [bound.text for bound in (node.slice.start, node.slice.stop) if isinstance(bound, syntax.Name)]
            for name in names:
                symbol = self._scope.get(name)
                if symbol is not None and isinstance(symbol.node, syntax.Param):
                    value = self._references.parameter(symbol)
                    if value is not None:
                        yield from self._of_value(value, symbol.name, symbol.name)


def references_of(step: syntax.Require) -> Iterator[syntax.Reference]:
    """Return the names of a condition."""

    def walk(node: syntax.Expression) -> Iterator[syntax.Reference]:
        if isinstance(node, syntax.Reference):
            yield node
        elif isinstance(node, syntax.Binary):
            yield from walk(node.left)
            yield from walk(node.right)

    yield from walk(step.left)
    yield from walk(step.right)


def _inside(node: syntax.Value) -> Iterator[syntax.AnyValue]:
    if isinstance(node, syntax.AnyValue):
        yield node
        for item in node.alternatives:
            yield from _inside(item)
    elif isinstance(node, syntax.ListValue):
        for item in node.items:
            yield from _inside(item)
    elif isinstance(node, syntax.MapValue):
        for entry in node.entries:
            yield from _inside(entry.value)


def expand(start: Taken, choices: list[Choice]) -> Iterator[Taken]:
    """Return one `Taken` for each combination; an `any(…)` that an ancestor has decided stays decided."""
    free = [choice for choice in choices if id(choice.node) not in start.indices]
    for indices in itertools.product(*(range(len(choice.node.alternatives)) for choice in free)):
        taken = start
        for choice, index in zip(free, indices, strict=True):
            taken = taken.with_choice(choice, index)
        yield taken


def combinations(start: Taken, choices: list[Choice]) -> int:
    """Return how many `expand` would give."""
    count = 1
    for choice in choices:
        if id(choice.node) not in start.indices:
            count *= len(choice.node.alternatives)
    return count
