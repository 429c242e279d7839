"""The plan as a tree on the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mopt.plugin import canonical, schema

if TYPE_CHECKING:
    from mopt.plan.plan import Plan, PlanStep
    from rich.tree import Tree


def call_text(operation: Any) -> str:
    """Write a plug-in instance as the recipe would: `prune.magnitude(amount=20%)`; defaults are left out."""
    given = []
    cls: type = type(operation)
    for option in schema(cls):
        value = getattr(operation, option.name)
        if option.required or value != option.default:
            given.append(f"{option.name}={value_text(value)}")
    return f"{operation.name}({', '.join(given)})"


def value_text(value: Any) -> str:
    """Write an option's value as the recipe would."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"' if not value.isidentifier() else value
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(value_text(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {value_text(item)}" for key, item in value.items()) + "}"
    return str(value)


def plan_json(plan: Plan, cached: Mapping[str, bool]) -> dict[str, Any]:
    """Return the plan as JSON data; `cached` says for each step id whether its result is in the store."""
    return {
        "recipe": plan.recipe.path,
        "steps": [
            {
                "id": step.id,
                "parent": step.parent,
                "label": step.label,
                "name": step.name,
                "options": canonical(
                    step.operation if step.operation is not None else step.model and step.model.source
                ),
                "place": str(step.place),
                "pipelines": plan.shared(step.id),
                "cached": cached.get(step.id, False),
            }
            for step in plan.steps.values()
        ],
        "pipelines": [
            {
                "name": pipeline.name,
                "parent": pipeline.parent,
                "result": pipeline.result,
                "requirements": [stop.requirement.text for stop in pipeline.stops if stop.requirement],
            }
            for pipeline in plan.pipelines.values()
        ],
    }


def plan_tree(plan: Plan, cached: Mapping[str, bool]) -> Tree:
    """Return the plan as a rich tree: models at the roots, steps below, pipelines where they end."""
    from rich.markup import escape
    from rich.tree import Tree

    def mark(step: PlanStep) -> str:
        return " [green]done[/green]" if cached.get(step.id) else " [yellow]to run[/yellow]"

    root = Tree(f"[bold]{escape(plan.recipe.path)}[/bold]", guide_style="dim")
    branches: dict[str, Tree] = {}
    for step in plan.steps.values():
        if step.parent is None:
            assert step.model is not None
            text = f"model [bold]{escape(step.model.name)}[/bold] = {escape(call_text(step.model.source))}"
            branches[step.id] = root.add(text + mark(step))
        else:
            branches[step.id] = branches[step.parent].add(escape(call_text(step.operation)) + mark(step))
    for pipeline in plan.pipelines.values():
        end = branches[pipeline.result].add(f"[cyan]→ pipeline {escape(pipeline.name)}[/cyan]")
        for stop in pipeline.stops:
            if stop.requirement is not None:
                end.add(f"[magenta]{escape(stop.requirement.text)}[/magenta]")
    return root
