"""What a training run is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Optimizer = Literal["adamw", "adam", "sgd"]
Schedule = Literal["constant", "cosine", "linear", "step"]
Precision = Literal["f32", "bf16", "f16"]


class TrainingError(Exception):
    """Training can't go on. The message says what, at which step; `help` what to do."""

    def __init__(self, message: str, *, help: str | None = None) -> None:
        super().__init__(message)
        self.help = help


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run beside network, objective and data.

    Attributes:
        epochs: passes over the data; `steps`, where given, counts instead.
        batch: samples a step, over all processes together.
        last: what becomes of the samples that fill no batch at the end of an epoch.
        shuffle: draw the order anew each epoch, from the seed and the epoch's number alone.
        optimizer, rate, momentum, weight_decay: `momentum` is sgd's (Nesterov); weights of one axis (biases, norms)
            do not decay.
        schedule: how the rate falls; see `mopt.runtime.training.schedule`.
        warmup: share of the steps in which the rate rises linearly to `rate`.
        drops, drop: for `step`: at these shares of the steps the rate is multiplied by `drop`.
        clip: largest L2 norm of the whole gradient; 0: no limit.
        precision: arithmetic of the network; parameters and loss stay float32.
        device: `auto` takes a GPU where there is one.
        every: steps between two evaluations; None: once an epoch.
        patience: evaluations without a better figure before training stops; None: never.
        nan: what to do where the loss is no finite number: raise, stop with the last good weights, or leave the
            batch out.
        checkpoint: seconds between two checkpoints.
        seed: the only source of randomness.
    """

    epochs: int = 1
    steps: int | None = None
    batch: int = 32
    last: Literal["keep", "drop"] = "keep"
    shuffle: bool = True
    optimizer: Optimizer = "adamw"
    rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    warmup: float = 0.0
    drops: tuple[float, ...] = (0.5, 0.75)
    drop: float = 0.1
    clip: float = 0.0
    precision: Precision = "f32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    every: int | None = None
    patience: int | None = None
    nan: Literal["stop", "keep", "skip"] = "stop"
    checkpoint: float = 60.0
    seed: int = 0
