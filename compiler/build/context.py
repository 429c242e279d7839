"""What the compiler offers a pass while it runs; see `mopt.passes.contract.Context`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from mopt.build.progress import Activity, Reporter
    from mopt.ir import Module
    from mopt.passes.contract import Promise
    from mopt.recipe import Recipe
    from mopt.runtime.contract import Loss, Metric, Split
    from mopt.values import DataRef, LossRef, MetricRef, ModelRef


@dataclass(frozen=True)
class StepContext:
    """The context of one step. `bindings` gives sizes to dynamic dimensions by name."""

    seed: int
    bindings: Mapping[str, int]
    scratch: Path
    reporter: Reporter
    open_split: Callable[[DataRef], Split]
    load_model: Callable[[str], Module]
    recorded_at: Callable[[ModelRef, DataRef], Path]
    recipe: Recipe
    checkpoints: Path
    promises: tuple[Promise, ...] = ()

    def loss(self, reference: LossRef) -> Loss:
        """Return a declared or built-in loss."""
        return self.recipe.losses[reference.name].loss

    def metric(self, reference: MetricRef) -> tuple[Metric | Loss, Literal["min", "max"]]:
        """Return a metric (or a loss that serves as one), and which direction is better."""
        if reference.name in self.recipe.metrics:
            declaration = self.recipe.metrics[reference.name]
            return declaration.metric, declaration.goal
        return self.recipe.losses[reference.name].loss, "min"

    def split(self, reference: DataRef) -> Split:
        """Return the samples a data reference names."""
        return self.open_split(reference)

    def module(self, name: str) -> Module:
        """Return a declared model or an earlier pipeline's result."""
        return self.load_model(name)

    def recordings(self, model: ModelRef, data: DataRef) -> Path:
        """Return a folder for what follows from a model's result and data alone; it outlives the step."""
        return self.recorded_at(model, data)

    def progress(self, description: str, total: int | None = None) -> AbstractContextManager[Activity]:
        """Open a progress bar."""
        return self.reporter.activity(description, total)
