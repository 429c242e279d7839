"""From a checked recipe to a DAG of steps in which equal prefixes of pipelines are one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mopt.plan.references import model_references
from mopt.plugin import canonical
from mopt.recipe import ModelDecl, Recipe, Requirement
from mopt.store.files import digest_of

if TYPE_CHECKING:
    from mopt.passes.contract import Pass
    from mopt.recipe import Place


@dataclass(frozen=True)
class PlanStep:
    """A node of the DAG: a model to lower (`parent` is None), or a pass to run on its parent's result.

    Attributes:
        id: digest of all that the recipe says about the chain up to here.
        parent: the id of the step whose result it rewrites.
        model: the declared model, at the root of a chain.
        operation: the pass, elsewhere.
        label: `PIPELINE@NUMBER` of the first pipeline that has it; the model's name at a root.
        place: where the recipe asks for it.
    """

    id: str
    parent: str | None
    model: ModelDecl | None
    operation: Pass | None
    label: str
    place: Place

    @property
    def name(self) -> str:
        """What to call the step in a message: the pass's name, or the model's."""
        if self.operation is not None:
            return self.operation.name
        return self.model.name if self.model is not None else self.label


@dataclass(frozen=True)
class Stop:
    """One stop of a pipeline: a step to have run, or a requirement to meet after the steps before it."""

    step: str
    requirement: Requirement | None = None


@dataclass(frozen=True)
class PlannedPipeline:
    """A pipeline as steps. `base` is the step whose result it starts from, `result` the one it ends with."""

    name: str
    parent: str
    model: str
    base: str
    result: str
    stops: tuple[Stop, ...]

    @property
    def steps(self) -> tuple[str, ...]:
        """The ids of its own steps, in order."""
        return tuple(stop.step for stop in self.stops if stop.requirement is None)


@dataclass(frozen=True)
class Plan:
    """The DAG. `steps` stand in an order in which every parent precedes its children."""

    recipe: Recipe
    steps: Mapping[str, PlanStep]
    pipelines: Mapping[str, PlannedPipeline]

    def chain(self, step: str) -> tuple[PlanStep, ...]:
        """Return the steps from the model to `step`, in order."""
        chain = []
        current: str | None = step
        while current is not None:
            chain.append(self.steps[current])
            current = self.steps[current].parent
        return tuple(reversed(chain))

    def shared(self, step: str) -> tuple[str, ...]:
        """Return the names of the pipelines that run through a step."""
        return tuple(
            name for name, pipeline in self.pipelines.items() if any(s.id == step for s in self.chain(pipeline.result))
        )


def make_plan(recipe: Recipe) -> Plan:
    """Plan a checked recipe. Runs nothing and reads no file."""
    steps: dict[str, PlanStep] = {}
    pipelines: dict[str, PlannedPipeline] = {}
    model_steps: dict[str, str] = {}

    def model_step(model: ModelDecl) -> str:
        if model.name not in model_steps:
            identity = digest_of(["model", canonical(model.source)])
            steps.setdefault(identity, PlanStep(identity, None, model, None, model.name, model.place))
            model_steps[model.name] = identity
        return model_steps[model.name]

    for declaration in recipe.pipelines.values():
        if declaration.parent in recipe.models:
            base, model = model_step(recipe.models[declaration.parent]), declaration.parent
        else:
            base, model = pipelines[declaration.parent].result, pipelines[declaration.parent].model
        current, number, stops = base, 0, []
        for item in declaration.steps:
            if isinstance(item, Requirement):
                stops.append(Stop(current, item))
                continue
            number += 1
            for name in model_references(item.operation):  # a teacher that no pipeline starts from
                if name in recipe.models:
                    model_step(recipe.models[name])
            identity = digest_of(["step", current, canonical(item.operation)])
            steps.setdefault(
                identity,
                PlanStep(identity, current, None, item.operation, f"{declaration.name}@{number}", item.place),
            )
            current = identity
            stops.append(Stop(current))
        pipelines[declaration.name] = PlannedPipeline(
            declaration.name, declaration.parent, model, base, current, tuple(stops)
        )
    return Plan(recipe, steps, pipelines)
