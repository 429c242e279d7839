"""Pipelines: their parents, their expansion, their steps in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from mopt.check.conditions import Conditions
from mopt.check.orders import Chain
from mopt.check.plugins import find_class, instantiate
from mopt.check.references import Variant
from mopt.check.scope import KIND_WORDS, Symbol
from mopt.check.surroundings import Surroundings
from mopt.check.variants import MAX_VARIANTS, Alternatives, Choice, Taken, combinations, expand
from mopt.grammar import syntax
from mopt.grammar.diagnostics import Label
from mopt.passes.contract import Pass
from mopt.recipe import PipelineDecl, Place, Requirement, Step

Evaluated = Callable[[tuple[str, str, str], str], bool]
"""Whether a metric is evaluated on a pipeline, given its expanded name, its declared name and its model."""


@dataclass(frozen=True)
class _State:
    """What a variant hands on to its children."""

    name: str
    declared: str
    model: str
    taken: Taken = field(default_factory=Taken)
    chain: Chain = field(default_factory=Chain)

    @property
    def names(self) -> tuple[str, str, str]:
        return self.name, self.declared, self.model


class Pipelines:
    """Checks the pipelines of a recipe, in the order of their declaration."""

    def __init__(self, around: Surroundings, evaluated: Evaluated) -> None:
        self._around = around
        self._report = around.report
        self._scope = around.scope
        self._evaluated = evaluated
        self._alternatives = Alternatives(around.scope, around.references, around.registry, around.report)
        self._states: dict[str, list[_State]] = {}
        self._names: dict[str, tuple[str, str, str]] = {}
        self.done: dict[str, PipelineDecl] = {}

    def check(self, symbol: Symbol) -> None:
        """Check one pipeline, and add its variants to `done`."""
        node = symbol.node
        assert isinstance(node, syntax.Pipeline)
        references = self._around.references
        references.here = symbol
        states = [*self._variants(symbol, node)]
        if not states:  # wrong as it is; its steps are checked all the same
            choices, indices = self._alternatives.of_steps(node.steps)
            indices |= {id(choice.node): 0 for choice in choices}
            states = [_State(node.name.text, node.name.text, "", Taken(indices))]
        self._states[symbol.name] = [self._steps(node, parent) for parent in states]
        references.variants[symbol.name] = [
            Variant(state.name, symbol.name, state.taken.indices) for state in self._states[symbol.name]
        ]
        references.here = None

    def state(self, pipeline: str) -> tuple[str, str, str]:
        """Return the expanded name, the declared name and the model of a variant."""
        return self._names.get(pipeline, (pipeline, pipeline, ""))

    # Parents

    def _variants(self, symbol: Symbol, node: syntax.Pipeline) -> Iterator[_State]:
        """Yield, for each variant, the state that its parent leaves, under the name of the variant."""
        parents = self._parents(node)
        choices, unsound = self._alternatives.of_steps(node.steps)
        total = 0
        for taken, reference in parents:
            for parent in self._parent_states(symbol, reference, taken):
                total += combinations(parent.taken, choices)
                if total > MAX_VARIANTS:
                    self._too_many(node, choices)
                    return
                parent = replace(parent, taken=replace(parent.taken, indices={**parent.taken.indices, **unsound}))
                for one in expand(parent.taken, choices):
                    yield replace(parent, name=one.name(symbol.name), declared=symbol.name, taken=one)

    def _too_many(self, node: syntax.Pipeline, choices: list[Choice]) -> None:
        self._report.error(
            "E0405",
            f"`{node.name.text}` expands to more than {MAX_VARIANTS} variants",
            node.name.span,
            "the product of all alternatives, its parent's included",
            secondary=[Label(choice.node.span, f"{len(choice.node.alternatives)} alternatives") for choice in choices],
            help="vary fewer things at once, or split the pipeline",
        )

    def _parents(self, node: syntax.Pipeline) -> list[tuple[Taken, syntax.Reference]]:
        value: syntax.Value = node.parent
        if isinstance(value, syntax.Reference) and len(value.parts) == 1:
            symbol = self._scope.get(value.text)
            if symbol is not None and isinstance(symbol.node, syntax.Param):
                constant = self._around.references.parameter(symbol)
                if constant is None:
                    return []
                value = constant
        if isinstance(value, syntax.AnyValue):
            if not self._alternatives.sound(value):
                return []
            choice = Choice("parent", "parent", value)
            found = []
            for index, one in enumerate(value.alternatives):
                if isinstance(one, syntax.Reference):
                    found.append((Taken().with_choice(choice, index), one))
                else:
                    self._no_parent(one)
            return found
        if isinstance(value, syntax.Reference):
            return [(Taken(), value)]
        self._no_parent(value)
        return []

    def _no_parent(self, node: syntax.Value) -> None:
        message = "a pipeline starts from a model or from an earlier pipeline"
        self._report.error("E0306", message, node.span, "this is neither")

    def _parent_states(self, symbol: Symbol, node: syntax.Reference, own: Taken) -> Iterator[_State]:
        parent = self._scope.get(node.parts[0].text)
        if parent is None:
            if not self._scope.may_exist(node.parts[0].text):
                label = self._scope.suggestion(node.parts[0].text, ("model", "pipeline"))
                message = f"no model or pipeline is called `{node.parts[0].text}`"
                self._report.error("E0201", message, node.parts[0].span, label)
            return
        if parent.kind not in ("model", "pipeline") or len(node.parts) > 1 or node.slice is not None:
            message = "a pipeline starts from a model or from an earlier pipeline"
            said = f"`{parent.name}` is {KIND_WORDS[parent.kind]}"
            self._report.error("E0306", message, node.span, said, secondary=[parent.label])
            return
        if parent.kind == "model":
            yield _State(parent.name, parent.name, parent.name, own)
            return
        if parent.order >= symbol.order:
            self._late(symbol, parent, node)
            return
        for state in self._states[parent.name]:
            taken = Taken({**state.taken.indices, **own.indices}, (*state.taken.texts, *own.texts))
            yield replace(state, taken=taken)

    def _late(self, symbol: Symbol, parent: Symbol, node: syntax.Reference) -> None:
        trail = self._way_back(symbol, parent)
        if trail is None:
            message = f"`{parent.name}` is declared further down"
            help = f"move `{symbol.name}` below it"
            self._report.error(
                "E0402", message, node.span, "used before it is declared", secondary=[parent.label], help=help
            )
            return
        starts = zip(trail, [*trail[1:], symbol], strict=False)  # none where it starts from itself
        others = [Label(one.node.name.span, f"`{one.name}` starts from `{after.name}`") for one, after in starts]
        what = f"`{parent.name}`" if trail else "itself"
        self._report.error(
            "E0401",
            f"`{symbol.name}` is its own ancestor",
            node.span,
            f"`{symbol.name}` starts from {what}",
            secondary=others,
            help="start one of them from a model",
        )

    def _way_back(self, symbol: Symbol, parent: Symbol) -> list[Symbol] | None:
        """Return the pipelines from `parent` up to one that starts from `symbol`, or None."""
        if parent is symbol:
            return []
        came: dict[str, Symbol | None] = {parent.name: None}
        queue = [parent]
        for one in queue:
            assert isinstance(one.node, syntax.Pipeline)
            for name in _parent_names(one.node):
                if name == symbol.name:
                    trail: list[Symbol] = []
                    at: Symbol | None = one
                    while at is not None:
                        trail.append(at)
                        at = came[at.name]
                    return trail[::-1]
                above = self._scope.get(name)
                if above is not None and above.kind == "pipeline" and name not in came:
                    came[name] = one
                    queue.append(above)
        return None

    # Steps

    def _steps(self, node: syntax.Pipeline, start: _State) -> _State:
        around = replace(self._around, choices=start.taken.indices)
        conditions = Conditions(
            around, lambda pipeline, metric: self._evaluated(self.state(pipeline) if pipeline else start.names, metric)
        )
        parent = self._parent_name(node, start)
        around.references.parent = parent
        steps: list[Step | Requirement] = []
        chain = start.chain
        for step in node.steps:
            if isinstance(step, syntax.Require):
                condition = conditions.read(step)
                if condition is not None:
                    steps.append(condition)
                continue
            call = step.call
            cls = find_class(call, "passes", around.registry, self._report)
            if cls is None:
                continue
            operation = instantiate(call, cls, "passes", around)
            if issubclass(cls, Pass):
                chain = chain.after(cls, call.name, call.name_span, self._report)
            if operation is not None:
                steps.append(Step(operation, _place(call)))
        around.references.parent = None
        self._names[start.name] = start.names
        self.done[start.name] = PipelineDecl(
            start.name, start.declared, parent, tuple(steps), start.taken.texts, _place(node.name)
        )
        return replace(start, chain=chain)

    def _parent_name(self, node: syntax.Pipeline, start: _State) -> str:
        """Return the variant of the parent whose choices this variant goes on with."""
        parents = self._parents(node)
        wanted = start.taken.indices
        for taken, reference in parents:
            if any(wanted.get(key) != index for key, index in taken.indices.items()):
                continue
            name = reference.parts[0].text
            for state in self._states.get(name, ()):
                if all(wanted.get(key) == index for key, index in state.taken.indices.items()):
                    return state.name
            return name
        return ""


def _parent_names(node: syntax.Pipeline) -> list[str]:
    values = node.parent.alternatives if isinstance(node.parent, syntax.AnyValue) else (node.parent,)
    return [value.parts[0].text for value in values if isinstance(value, syntax.Reference)]


def _place(node: syntax.Node) -> Place:
    return Place(node.span.path, *node.span.source.position(node.span.start))
