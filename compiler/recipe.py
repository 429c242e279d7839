"""A checked recipe: what the checker hands to the plan. Every name is resolved, every option typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from mopt.values import ByteSize, DataRef, Duration, PythonRef, Ratio

if TYPE_CHECKING:
    from mopt.passes.contract import Pass
    from mopt.runtime.contract import DataSource, Loss, Metric, Source, Target


@dataclass(frozen=True)
class Place:
    """Where something stands in a recipe (1-based line and column), for messages at run time."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class ModelDecl:
    """`model NAME = SOURCE(…)`."""

    name: str
    source: Source
    place: Place


@dataclass(frozen=True)
class DataDecl:
    """`data NAME = SOURCE(…)`."""

    name: str
    source: DataSource
    place: Place


@dataclass(frozen=True)
class LossDecl:
    """`loss NAME = …`."""

    name: str
    loss: Loss
    place: Place


@dataclass(frozen=True)
class MetricDecl:
    """`metric NAME = …`. `goal` says which direction is better."""

    name: str
    metric: Metric
    goal: Literal["min", "max"]
    place: Place


@dataclass(frozen=True)
class Number:
    """A literal of a condition; `text` is how the recipe writes it."""

    value: int | float | Ratio | Duration | ByteSize
    text: str


@dataclass(frozen=True)
class Measure:
    """A measured quantity: of the pipeline itself (`pipeline` is None) or of another (`original.cer`)."""

    pipeline: str | None
    name: str


@dataclass(frozen=True)
class Binary:
    """An arithmetic expression of a condition."""

    operator: Literal["+", "-", "*", "/"]
    left: Expression
    right: Expression


Expression = Number | Measure | Binary


@dataclass(frozen=True)
class Requirement:
    """`require LEFT OP RIGHT [on TARGET]`; `text` is its canonical source text, for the report.

    With a target it is measured on that one, and asked only in a build for it; else on the first target of the build.
    """

    left: Expression
    operator: Literal["<=", ">=", "<", ">", "==", "!="]
    right: Expression
    text: str
    place: Place
    target: str | None = None


@dataclass(frozen=True)
class Step:
    """One compression pass of a pipeline."""

    operation: Pass
    place: Place


@dataclass(frozen=True)
class PipelineDecl:
    """`pipeline NAME = PARENT { … }`, after the expansion of `any(…)`.

    `name` carries the choices (`pruned[amount=30%]`), `declared` the name as written. `parent` is the name
    of a model or of an earlier, expanded pipeline.
    """

    name: str
    declared: str
    parent: str
    steps: tuple[Step | Requirement, ...]
    choices: tuple[tuple[str, str], ...]
    place: Place


@dataclass(frozen=True)
class AppDecl:
    """`app NAME = python("file.py:Class", part=PIPELINE, …)`."""

    name: str
    program: PythonRef
    parts: Mapping[str, str]
    options: Mapping[str, object]
    place: Place


@dataclass(frozen=True)
class TargetDecl:
    """`target NAME = TARGET(…)`."""

    name: str
    target: Target
    place: Place


@dataclass(frozen=True)
class Evaluate:
    """`evaluate(data=…, metrics=[…], pipelines=["rec*"], batch=8)`: what pipelines are judged on.

    A recipe may hold several of them: each judges the pipelines that one of its globs matches, by the name of
    the pipeline (as declared, or expanded) or of the model it descends from; no globs means every pipeline.
    `metrics` name declared metrics, losses or built-ins; those that are not declared appear in `Recipe.metrics`
    too, under their own name.
    """

    data: DataRef
    metrics: tuple[str, ...]
    batch: int = 1
    pipelines: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProfileOptions:
    """`profile(…)`. `runs` timed rounds after `warmup` untimed ones; `bind` gives sizes to dynamic dimensions.

    Rounds go on until half of each ratio's interval is at most `precision` of it, or for `seconds` in all.
    """

    batch: tuple[int, ...] = (1,)
    runs: int = 20
    warmup: int = 3
    precision: float = 0.02
    seconds: float = 1.0
    targets: tuple[str, ...] = ()
    bind: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. Mappings keep the order of declaration; pipelines stand after their parents."""

    path: str
    title: str | None
    parameters: Mapping[str, object]
    models: Mapping[str, ModelDecl]
    data: Mapping[str, DataDecl]
    losses: Mapping[str, LossDecl]
    metrics: Mapping[str, MetricDecl]
    pipelines: Mapping[str, PipelineDecl]
    apps: Mapping[str, AppDecl]
    targets: Mapping[str, TargetDecl]
    evaluations: tuple[Evaluate, ...]
    profile: ProfileOptions
    seed: int = 0
