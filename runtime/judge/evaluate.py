"""Judging a model: run it over a split, and hand outputs and targets to metrics and losses as they come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.runtime.contract import DataError, MetricState, RunError
from mopt.runtime.data.sample_fit import SampleFit, feeds_of
from mopt.runtime.data.splits import TARGET, fit_to, split_name

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.contract import Loss, Metric, Runner, Split

Array = np.ndarray[Any, Any]


def evaluate(
    runner: Runner,
    split: Split,
    metrics: Mapping[str, Metric],
    batch: int = 1,
    *,
    losses: Mapping[str, Loss] | None = None,
    module: Module | None = None,
    advance: Callable[[int], object] | None = None,
) -> dict[str, float]:
    """Run a model over a split and return the figures of metrics and losses by name.

    Nothing but what the metrics keep is held in memory. A loss as a figure is its mean over samples.

    Args:
        split: samples; they are fitted to the runner's inputs where it tells them (`inputs`), else to the module's.
        batch: samples a run, where shapes and the model allow it.
        module: the judged model, for metrics that read its metadata.
        advance: called with the number of samples done after each batch.

    Raises:
        DataError: samples, targets or outputs do not fit; an output that should be a number is NaN.
        RunError: the model does not run on a fitted sample.
    """
    inputs = tuple(getattr(runner, "inputs", None) or (module.inputs if module is not None else ()))
    if inputs:
        split = fit_to(split, SampleFit(inputs, split_name(split)))
    states: dict[str, MetricState] = {name: metric.start(module) for name, metric in metrics.items()}
    if losses:
        from mopt.runtime.judge.loss_figure import LossState

        states |= {name: LossState(name, loss) for name, loss in losses.items()}
    done = 0
    for stacked in split.batches(batch):
        if TARGET not in stacked and states:
            raise DataError(
                f"the samples of `{split_name(split)}` have no `{TARGET}`, which {_listed(states)} "
                "compares the outputs with"
            )
        count = len(next(iter(stacked.values())))
        feeds = feeds_of(stacked, inputs) if inputs else {key: stacked[key] for key in stacked if key != TARGET}
        outputs = _run(runner, feeds, split, done, count)
        for name, state in states.items():
            _update(name, state, outputs, stacked[TARGET])
        done += count
        if advance is not None:
            advance(count)
    return {name: float(state.compute()) for name, state in states.items()}


def evaluate_loss(runner: Runner, split: Split, loss: Loss, batch: int = 1, *, module: Module | None = None) -> float:
    """Return the mean of a loss over the samples of a split.

    Raises:
        DataError: as `evaluate`.
    """
    return evaluate(runner, split, {}, batch, losses={"loss": loss}, module=module)["loss"]


def _run(runner: Runner, feeds: Mapping[str, Array], split: Split, first: int, count: int) -> dict[str, Array]:
    where = f"sample {first}" if count == 1 else f"samples {first} to {first + count - 1}"
    try:
        outputs = runner.run(feeds)
    except RunError as error:
        shapes = ", ".join(f"`{name}` {list(array.shape)}" for name, array in feeds.items())
        raise DataError(f"the model does not run on {where} of `{split_name(split)}` ({shapes}): {error}") from error
    for name, array in outputs.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            share = float(np.isnan(array).mean())
            raise DataError(
                f"output `{name}` is NaN ({share:.0%} of it) on {where} of `{split_name(split)}`: "
                "an overflow (float16?), or input values that the model can't take"
            )
    return outputs


def _update(name: str, state: MetricState, outputs: Mapping[str, Array], targets: Any) -> None:
    try:
        state.update(outputs, targets)
    except DataError as error:
        text = str(error)
        raise DataError(text if f"`{name}" in text else f"`{name}`: {text}") from error


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(f"`{name}`" for name in names)
