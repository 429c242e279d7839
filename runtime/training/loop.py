"""The training loop: steps, evaluations, checkpoints; one implementation for tuning, distilling and QAT."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from mopt.runtime.contract import DataError
from mopt.runtime.training.batches import TrainingData
from mopt.runtime.training.checkpoint import Checkpoints
from mopt.runtime.training.devices import Trained, open_accelerator
from mopt.runtime.training.hook import Hook
from mopt.runtime.training.interrupts import Interrupts
from mopt.runtime.training.monitor import Monitor
from mopt.runtime.training.objective import Batch, Objective, is_out_of_memory, targets_on
from mopt.runtime.training.optimiser import make_optimizer
from mopt.runtime.training.randomness import generators_kept, seed_step
from mopt.runtime.training.result import Progress, Result
from mopt.runtime.training.schedule import factor
from mopt.runtime.training.settings import Settings, TrainingError
from mopt.runtime.training.weights import Weights

_GOOD_EVERY: Final = 20
"""Steps between two copies of the weights that are known to be good; a copy costs a fraction of a step."""

_SKIPS: Final = 10
"""Batches in a row that may have no finite loss before it is the weights that are at fault."""


class Display(Protocol):
    """Where progress goes (`mopt.passes.contract.Progress`)."""

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""

    def describe(self, text: str) -> None:
        """Change the text beside the bar."""


def train(
    network: torch.nn.Module,
    objective: Objective,
    data: TrainingData,
    settings: Settings,
    *,
    monitor: Monitor | None = None,
    hooks: Sequence[Hook] = (),
    checkpoints: Path | None = None,
    display: Display | None = None,
) -> Result:
    """Train `network` in place; afterwards it holds the weights to keep, on the CPU, in evaluation mode.

    With a monitor those are the best ones it has seen (the untrained ones among them), else the last.

    Args:
        network: takes feeds by name and returns outputs by name; what is trained is what has `requires_grad`.
        objective: what to minimise.
        data: the batches.
        settings: how.
        monitor: what decides which weights are best, and when to stop.
        hooks: what else happens around each step.
        checkpoints: a folder of this run alone. What an interrupted run left there is gone on with, to the result
            that it would have had.
        display: a progress bar of `steps_of(settings, data)` steps.

    Raises:
        TrainingError: nothing can be trained, the loss is no finite number, memory ran out.
        DataError: data and network or objective do not fit, with the step and the samples.
        KeyboardInterrupt: Ctrl-C, after a checkpoint.
    """
    if not any(parameter.requires_grad for parameter in (*network.parameters(), *objective.parameters())):
        raise TrainingError("there is nothing to train: no weight of the graph is free to change")
    with generators_kept(), Interrupts() as interrupts:
        loop = _Loop(network, objective, data, settings, monitor, hooks, checkpoints, display, interrupts)
        try:
            return loop.run()
        finally:
            loop.close()


def steps_of(settings: Settings, data: TrainingData) -> int:
    """Return the number of steps that a run takes."""
    return settings.steps if settings.steps is not None else settings.epochs * len(data)


class _Loop:
    def __init__(
        self,
        network: torch.nn.Module,
        objective: Objective,
        data: TrainingData,
        settings: Settings,
        monitor: Monitor | None,
        hooks: Sequence[Hook],
        checkpoints: Path | None,
        display: Display | None,
        interrupts: Interrupts,
    ) -> None:
        self._accelerator = accelerator = open_accelerator(settings)
        seed_step(settings.seed, 0, 0)
        self._network, self._objective = network.to(accelerator.device), objective.to(accelerator.device)
        self._trained, self._optimizer = accelerator.prepare(
            Trained(network, objective), make_optimizer(settings, (network, objective))
        )
        self._data, self._settings, self._monitor, self._hooks = data, settings, monitor, tuple(hooks)
        self._display, self._interrupts = display, interrupts
        self._files = Checkpoints(checkpoints, settings.checkpoint)
        self._weights = Weights(network)
        self._progress = Progress()
        self._total = steps_of(settings, data)
        self._every = settings.every or len(data)
        self._resumed: int | None = None
        self._begun, self._said, self._shown = time.monotonic(), 0.0, 0.0

    # -- the run

    def run(self) -> Result:
        for hook in self._hooks:
            hook.start(self._network, self._total)
        self._restore()
        if not self._weights.has("good"):
            self._weights.keep("good", 0)
        if self._display is not None and self._progress.step:
            self._display.advance(self._progress.step)
        while not self._progress.stopped:
            self._evaluate()
            if self._progress.step >= self._total or self._progress.stopped:
                break
            self._step()
            self._pause()
        return self._finish()

    def close(self) -> None:
        """Leave the network as a plain module on the CPU."""
        self._trained.zero_grad(set_to_none=True)
        self._network.to("cpu")
        self._objective.to("cpu")
        self._network.eval()

    def _finish(self) -> Result:
        progress = self._progress
        kept = progress.step
        if self._monitor is not None and progress.best is not None:
            kept = self._weights.restore("best")
        elif progress.stopped == "nan" or not self._weights.finite():
            if progress.stopped != "nan":
                self._not_finite("the weights are not finite", progress.step - 1)
            kept = self._weights.restore("good")
        progress.seconds += time.monotonic() - self._begun
        return Result(progress, self._total, len(self._data), kept, self._resumed, self._files.problem)

    # -- one step

    def _step(self) -> None:
        step = self._progress.step
        self._trained.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.rate * factor(self._settings, step, self._total)
        accelerator = self._accelerator
        feeds, targets, samples = self._data.batch(step, accelerator.process_index, accelerator.num_processes)
        seed_step(self._settings.seed, step, accelerator.process_index)
        for hook in self._hooks:
            hook.before_step(self._network, step)
        buffers = self._weights.buffers() if self._settings.nan == "skip" else None
        value = math.nan
        try:
            if len(samples):
                loss = self._loss(feeds, targets, samples, step)
                value = self._shared(loss)
                if math.isfinite(value):
                    if step % _GOOD_EVERY == 0:
                        self._weights.keep("good", step)
                    self._update(loss)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise self._out_of_memory(error, step, len(samples)) from error
            raise
        finally:
            self._trained.zero_grad(set_to_none=True)
        self._progress.step += 1
        self._progress.losses.append(value)
        if not math.isfinite(value) and len(samples):
            if buffers is not None:
                self._weights.put_back(buffers)
            self._not_finite(f"the loss is {value}", step, samples)
        for hook in self._hooks:
            hook.after_step(self._network, step)
        self._show(value)

    def _loss(self, feeds: dict[str, Any], targets: Any, samples: Any, step: int) -> torch.Tensor:
        device = self._accelerator.device
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in feeds.items()}
        wanted = targets_on(targets, device) if targets is not None else None
        batch = Batch(tensors, wanted, samples, step, step // len(self._data))
        try:
            loss: torch.Tensor = self._trained(tensors, batch)
        except (DataError, TrainingError) as error:
            text = f"{error} (step {step + 1}, {_listed(samples)} of `{self._data.name}`)"
            if isinstance(error, DataError):
                raise DataError(text) from error
            raise TrainingError(text, help=error.help) from error
        return loss

    def _update(self, loss: torch.Tensor) -> None:
        # Accelerate looks for optional packages at every step; without a scaler it does nothing more than this.
        plain = self._accelerator.scaler is None
        if plain:
            loss.backward()
        else:
            self._accelerator.backward(loss)
        if self._settings.clip > 0:
            self._accelerator.clip_grad_norm_(self._trained.parameters(), self._settings.clip)
        if plain:
            self._optimizer.optimizer.step()
        else:
            self._optimizer.step()

    def _shared(self, loss: torch.Tensor) -> float:
        """Return the loss over all processes, and learn whether one of them was interrupted."""
        if self._accelerator.num_processes == 1:
            return float(loss.detach())
        told = torch.stack([loss.detach().float(), loss.new_tensor(float(self._interrupts.requested))])
        mean, interrupted = self._accelerator.reduce(told, reduction="mean").tolist()
        self._interrupts.requested = interrupted > 0
        return float(mean)

    # -- what may happen between steps

    def _evaluate(self) -> None:
        progress, monitor = self._progress, self._monitor
        done = bool(progress.figures) and progress.figures[-1][0] == progress.step
        if monitor is None or done or (progress.step % self._every and progress.step < self._total):
            return
        figure = math.nan
        if self._accelerator.is_main_process:
            figure = monitor.measure(self._network, self._accelerator.device)
        if self._accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            figure = float(broadcast_object_list([figure])[0])
        progress.figures.append((progress.step, figure))
        last = progress.step >= self._total
        if not last and not all(hook.may_keep(progress.step) for hook in self._hooks):
            return
        if monitor.better(figure, progress.best[1] if progress.best else None):
            progress.best, progress.stale = (progress.step, figure), 0
            self._weights.keep("best", progress.step)
        else:
            progress.stale += 1
        if self._settings.patience is not None and progress.stale > 0 and progress.stale >= self._settings.patience:
            progress.stopped = "patience"

    def _pause(self) -> None:
        if self._interrupts.requested or self._files.due:
            self._save()
        if self._interrupts.requested:
            raise KeyboardInterrupt

    def _not_finite(self, what: str, step: int, samples: Any = ()) -> None:
        """Answer a loss that is no number, as the settings say."""
        progress, place = self._progress, f"at step {step + 1} of {self._total}"
        run_of_skips = progress.losses[-_SKIPS:]
        if self._settings.nan == "skip" and samples is not None and len(samples):
            progress.skipped.append(step)
            if len(run_of_skips) < _SKIPS or any(math.isfinite(loss) for loss in run_of_skips):
                return
            place += f", as it was in the {_SKIPS - 1} steps before"
        good = self._weights.restore("good")
        if self._settings.nan == "keep":
            progress.stopped = "nan"
            return
        of = f" ({_listed(samples)} of `{self._data.name}`)" if len(samples) else ""
        raise TrainingError(
            f"{what} {place}{of}; the weights were good for the last time after step {good}",
            help="a smaller `rate`, `clip=1` or a `warmup` may mend it; `nan=keep` ends the step with the last good "
            "weights instead, `nan=skip` leaves such a batch out",
        )

    def _out_of_memory(self, error: BaseException, step: int, samples: int) -> TrainingError:
        smaller = max(1, self._settings.batch // 2)
        return TrainingError(
            f"out of memory at step {step + 1} with a batch of {samples} on {self._accelerator.device}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}",
            help=f"take a smaller batch (`batch={smaller}`), or `precision=bf16`",
        )

    def _show(self, loss: float) -> None:
        if self._display is None:
            return
        self._display.advance(1)
        # A running mean, as the loss of one batch jumps about.
        self._shown = loss if self._progress.step < 2 or self._shown != self._shown else self._shown * 0.9 + loss * 0.1
        if time.monotonic() - self._said < 0.2:
            return
        self._said = time.monotonic()
        epoch, epochs = self._progress.step // len(self._data) + 1, math.ceil(self._total / len(self._data))
        text = f"epoch {min(epoch, epochs)}/{epochs}, loss {self._shown:.4g}"
        if self._monitor is not None and self._progress.figures:
            text += f", {self._monitor.name} {self._progress.figures[-1][1]:.4g}"
        self._display.describe(text)

    # -- checkpoints

    def _save(self) -> None:
        if not self._accelerator.is_main_process:
            return
        progress = dataclasses.replace(self._progress, seconds=self._progress.seconds + time.monotonic() - self._begun)
        scaler = self._accelerator.scaler
        self._files.save(
            {
                "progress": dataclasses.asdict(progress),
                "network": self._network.state_dict(),
                "objective": self._objective.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else {},
                "kept": self._weights.state(),
                "hooks": [hook.state() for hook in self._hooks],
                "total": self._total,
            }
        )

    def _restore(self) -> None:
        state = self._files.load()
        if state is None or state.get("total") != self._total:
            return
        progress = state["progress"]
        progress["figures"] = [tuple(entry) for entry in progress["figures"]]
        progress["best"] = tuple(progress["best"]) if progress["best"] else None
        self._progress = Progress(**progress)
        self._network.load_state_dict(state["network"])
        self._objective.load_state_dict(state["objective"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._accelerator.scaler is not None and state["scaler"]:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._weights.set_state(state["kept"])
        for hook, kept in zip(self._hooks, state["hooks"], strict=True):
            hook.restore(kept)
        self._resumed = self._progress.step


def _listed(samples: Any) -> str:
    shown = ", ".join(str(int(number)) for number in samples[:6])
    return f"sample {shown}" if len(samples) == 1 else f"samples {shown}{', …' if len(samples) > 6 else ''}"
