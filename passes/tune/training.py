"""From a pass's options to a training run, and from its result to notes: what tuning, distilling and QAT share."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mopt.passes.contract import Context, Note, PassError

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.passes.tune.options import TrainingPass
    from mopt.runtime.training.hook import Hook
    from mopt.runtime.training.monitor import Monitor
    from mopt.runtime.training.objective import Objective
    from mopt.runtime.training.result import Result
    from mopt.runtime.training.settings import Settings


@contextlib.contextmanager
def training_errors() -> Iterator[None]:
    """Turn what the runner and the loop raise into `PassError`s.

    Raises:
        PassError: PyTorch or Accelerate is not installed, or whatever goes wrong inside.
    """
    for package in ("torch", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise PassError(f"training needs `{package}`, which is not installed", help="pip install 'mopt[torch]'")
    from mopt.runtime.trainable.missing import NotTrainableError
    from mopt.runtime.training.settings import TrainingError

    try:
        yield
    except NotTrainableError as error:
        node = error.missing[0].node if len(error.missing) == 1 else None
        raise PassError(str(error), node=node, help=error.help or None) from error
    except TrainingError as error:
        raise PassError(str(error), help=error.help) from error


def settings_of(options: TrainingPass, context: Context) -> Settings:
    """Return the loop's settings."""
    from mopt.runtime.training.settings import Settings

    return Settings(
        epochs=options.epochs,
        steps=options.steps,
        batch=options.batch,
        last=options.last,
        shuffle=options.shuffle,
        optimizer=options.optimizer,
        rate=options.rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        warmup=options.warmup,
        drops=tuple(options.drops),
        drop=options.drop,
        clip=options.clip,
        precision=options.precision,
        device=options.device,
        every=options.every,
        patience=options.patience,
        nan=options.nan,
        checkpoint=float(options.checkpoint),
        seed=context.seed if options.seed is None else options.seed,
    )


def monitor_of(module: Module, options: TrainingPass, context: Context) -> Monitor | None:
    """Return what decides which weights are kept: `monitor` on `validation`, by default the loss; None without."""
    if options.validation is None:
        return None
    from mopt.runtime.training.monitor import Monitor

    if options.monitor is not None:
        criterion, goal = context.metric(options.monitor)
        name = options.monitor.name
    elif options.loss is not None:
        criterion, goal, name = context.loss(options.loss), "min", options.loss.name
    else:
        raise PassError("`validation` is given, but nothing to look at on it", help="give `monitor=`, a metric")
    return Monitor(name, criterion, goal, context.split(options.validation), module, options.batch)


def train_network(
    module: Module,
    network: Any,
    objective: Objective,
    options: TrainingPass,
    context: Context,
    *,
    hooks: Sequence[Hook] = (),
    title: str = "",
) -> tuple[Result, tuple[Note, ...]]:
    """Train a network that stands for `module` on the pass's data, and say how it went.

    Args:
        module: whose inputs the data is fitted to.
        network: a `TrainableModule`, or anything that takes feeds and gives outputs by name.
        objective: what to minimise.
        options, context: the pass's.
        hooks: what happens around each step.
        title: beside the progress bar; by default the pass's name.

    Raises:
        TrainingError: see `mopt.runtime.training.loop.train`; wrap the call in `training_errors`.
        DataError: data, network and objective do not fit.
    """
    from mopt.runtime.training.batches import TrainingData
    from mopt.runtime.training.loop import steps_of, train

    settings = settings_of(options, context)
    data = TrainingData(
        context.split(options.data),
        module.inputs,
        options.batch,
        last=options.last,
        shuffle=options.shuffle,
        seed=settings.seed,
    )
    monitor = monitor_of(module, options, context)
    title = title or options.name
    with context.progress(title, steps_of(settings, data)) as bar:
        result = train(
            network,
            objective,
            data,
            settings,
            monitor=monitor,
            hooks=hooks,
            checkpoints=context.checkpoints,
            display=_Titled(bar, title),
        )
    return result, notes_of(result, data, monitor)


class _Titled:
    """A progress bar whose text begins with what runs."""

    def __init__(self, bar: Any, title: str) -> None:
        self._bar, self._title = bar, title

    def advance(self, steps: int = 1) -> None:
        self._bar.advance(steps)

    def describe(self, text: str) -> None:
        self._bar.describe(f"{self._title}: {text}")


def notes_of(result: Result, data: Any, monitor: Monitor | None) -> tuple[Note, ...]:
    """Say what a run did: losses from where to where, which weights were kept, what was out of the ordinary."""
    progress = result.progress
    finite = [loss for loss in progress.losses if loss == loss]
    ends = max(1, min(len(finite) // 4, result.per_epoch, 50))
    first, last = (sum(part) / max(1, len(part)) for part in (finite[:ends], finite[-ends:]))
    text = f"{progress.step} steps of {result.per_epoch} an epoch, loss {first:.4g} to {last:.4g}"
    if monitor is not None and progress.best is not None:
        text += (
            f"; {monitor.name} {progress.figures[0][1]:.4g} before, {progress.best[1]:.4g} at best, "
            f"after step {progress.best[0]}, whose weights are kept"
        )
    notes = [Note(text, figures=result.curve())]
    if monitor is not None and result.kept == 0:
        notes.append(Note(f"training never improved {monitor.name}: the weights are those before", severity="warning"))
    if progress.stopped == "patience":
        notes.append(Note(f"stopped early, after {progress.step} of {result.total} steps"))
    if progress.stopped == "nan":
        told = f"the loss was no finite number at step {progress.step}; the weights are those after step {result.kept}"
        notes.append(Note(told, severity="warning"))
    if progress.skipped:
        steps = ", ".join(str(step + 1) for step in progress.skipped[:8])
        notes.append(
            Note(f"{len(progress.skipped)} batches left out for their loss: steps {steps}", severity="warning")
        )
    if result.problem:
        notes.append(Note(f"checkpoints could not be written: {result.problem}", severity="warning"))
    if data.short:
        told = f"`{data.name}` has {data.samples} samples, fewer than one batch: every step saw all of them"
        notes.append(Note(told, severity="warning"))
    return tuple(notes)
