"""The plan: shared prefixes are one step, whatever they are called."""

from dataclasses import dataclass

from mopt.passes.contract import Pass
from mopt.plan import make_plan
from mopt.plan.render import call_text, plan_json
from mopt.plugin import option, register
from mopt.recipe import (
    Measure,
    ModelDecl,
    Number,
    PipelineDecl,
    Place,
    ProfileOptions,
    Recipe,
    Requirement,
    Step,
)
from mopt.runtime.contract import Source
from mopt.values import Ratio

PLACE = Place("r.mopt", 3, 5)


@register("fake.source")
@dataclass(frozen=True)
class FakeSource(Source):
    path: str = option(help="")


@register("fake.prune")
@dataclass(frozen=True)
class FakePrune(Pass):
    amount: Ratio = option(help="")
    scope: str = option("global", help="")
    skip: tuple[str, ...] = option((), help="")


def pipeline(name, parent, *steps):
    items = tuple(item if isinstance(item, Requirement) else Step(item, PLACE) for item in steps)
    return PipelineDecl(name, name, parent, items, (), PLACE)


def recipe(*pipelines, models=("m",)):
    return Recipe(
        path="r.mopt",
        title=None,
        parameters={},
        models={name: ModelDecl(name, FakeSource(f"{name}.onnx"), PLACE) for name in models},
        data={},
        losses={},
        metrics={},
        pipelines={p.name: p for p in pipelines},
        apps={},
        targets={},
        evaluations=(),
        profile=ProfileOptions(),
    )


def test_equal_prefixes_are_shared_across_pipelines():
    plan = make_plan(
        recipe(
            pipeline("a", "m", FakePrune(Ratio(0.1)), FakePrune(Ratio(0.2))),
            pipeline("b", "m", FakePrune(Ratio(0.1)), FakePrune(Ratio(0.3))),
            pipeline("c", "a", FakePrune(Ratio(0.3))),
        )
    )
    assert len(plan.steps) == 5  # the model, one shared, two second steps, one of c
    a, b = plan.pipelines["a"], plan.pipelines["b"]
    assert a.steps[0] == b.steps[0]
    assert a.steps[1] != b.steps[1]
    assert plan.pipelines["c"].base == a.result
    assert plan.shared(a.steps[0]) == ("a", "b", "c")


def test_equal_models_are_lowered_once():
    same = recipe(pipeline("a", "m"), pipeline("b", "n"), models=("m", "n"))
    assert len(make_plan(same).steps) == 2
    object.__setattr__(same.models["n"], "source", FakeSource("m.onnx"))
    assert len(make_plan(same).steps) == 1


def test_an_empty_pipeline_ends_where_it_starts():
    plan = make_plan(recipe(pipeline("a", "m")))
    assert plan.pipelines["a"].result == plan.pipelines["a"].base
    assert plan.pipelines["a"].stops == ()


def test_requirements_stand_after_the_steps_before_them():
    condition = Requirement(Measure(None, "size"), "<", Number(3, "3"), "size < 3", PLACE)
    plan = make_plan(recipe(pipeline("a", "m", FakePrune(Ratio(0.1)), condition, FakePrune(Ratio(0.2)))))
    stops = plan.pipelines["a"].stops
    assert [stop.requirement for stop in stops] == [None, condition, None]
    assert stops[1].step == stops[0].step


def test_parents_precede_children():
    plan = make_plan(recipe(pipeline("a", "m", FakePrune(Ratio(0.1))), pipeline("b", "a", FakePrune(Ratio(0.2)))))
    seen = set()
    for step in plan.steps.values():
        assert step.parent is None or step.parent in seen
        seen.add(step.id)


def test_calls_are_written_as_the_recipe_would():
    assert call_text(FakePrune(Ratio(0.2))) == "fake.prune(amount=20%)"
    text = call_text(FakePrune(Ratio(0.125), scope="local", skip=("rnn*", "head")))
    assert text == 'fake.prune(amount=12.5%, scope=local, skip=["rnn*", head])'


def test_json_names_what_is_cached():
    plan = make_plan(recipe(pipeline("a", "m", FakePrune(Ratio(0.1)))))
    first, second = plan.steps
    data = plan_json(plan, {first: True})
    assert [step["cached"] for step in data["steps"]] == [True, False]
    assert data["steps"][1]["parent"] == first
    assert data["pipelines"][0]["result"] == second
