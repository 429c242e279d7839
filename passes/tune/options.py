"""The options of passes that train: tuning, distillation, quantisation-aware training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mopt.passes.contract import Pass
from mopt.plugin import option
from mopt.values import DataRef, Duration, Globs, LossRef, MetricRef, Ratio


@dataclass(frozen=True)
class TrainingPass(Pass):
    """What every pass that trains can be told. A subclass declares `loss` anew where it can't do without."""

    data: DataRef = option(help="samples to train on, with their targets")
    loss: LossRef | None = option(None, help="what to minimise over the targets")
    epochs: int = option(1, help="passes over the data", minimum=1)
    steps: int | None = option(None, help="batches to train on, in place of `epochs`", minimum=1)
    batch: int = option(32, help="samples a step, over all processes together", minimum=1)
    rate: float = option(1e-3, help="learning rate", minimum=0)
    optimizer: Literal["adamw", "adam", "sgd"] = option("adamw", help="how gradients become steps")
    momentum: float = option(0.9, help="of `sgd` (Nesterov's)", minimum=0, maximum=1)
    weight_decay: float = option(0.0, help="of weights with two axes or more", minimum=0)
    schedule: Literal["cosine", "linear", "step", "constant"] = option(
        "cosine", help="how the rate falls to the end of training"
    )
    warmup: Ratio = option(Ratio(0.0), help="share of the steps in which the rate rises to `rate`")
    drops: tuple[Ratio, ...] = option(
        (Ratio(0.5), Ratio(0.75)), help="`schedule=step`: shares of the steps after which the rate drops"
    )
    drop: float = option(0.1, help="`schedule=step`: what the rate is multiplied by then", minimum=0, maximum=1)
    clip: float = option(0.0, help="largest L2 norm of the whole gradient; 0: no limit", minimum=0)
    validation: DataRef | None = option(None, help="samples for `monitor`, other ones than those trained on")
    monitor: MetricRef | None = option(
        None, help="metric (or loss) on `validation` that says which weights are best; default: `loss`"
    )
    every: int | None = option(None, help="steps between two looks at `monitor`; default: an epoch", minimum=1)
    patience: int | None = option(
        None, help="looks at `monitor` without a better figure before training stops", minimum=1
    )
    batchnorm: Literal["train", "freeze"] = option(
        "train", help="batch normalisations follow the data, or keep their running statistics"
    )
    only: Globs = option((), help="source layers or weight names to train; none means all")
    skip: Globs = option((), help="source layers or weight names that stay as they are")
    last: Literal["keep", "drop"] = option("keep", help="samples at the end of an epoch that fill no batch")
    shuffle: bool = option(True, help="draw the order of the samples anew each epoch")
    precision: Literal["f32", "bf16", "f16"] = option(
        "f32", help="arithmetic of the network; weights and loss stay float32"
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", help="`auto` takes a GPU where there is one")
    nan: Literal["stop", "keep", "skip"] = option(
        "stop",
        help="where the loss is no finite number: fail, end the step with the last good weights, leave the batch out",
    )
    checkpoint: Duration = option(Duration(30.0), help="time between two checkpoints", minimum=0)
    seed: int | None = option(None, help="of the order of the samples and of dropout; default: the recipe's", minimum=0)

    tools: ClassVar[tuple[str, ...]] = ("torch", "accelerate", "numpy", "onnx-ir")
    stands_on: ClassVar[tuple[str, ...]] = (
        "passes.tune", "runtime.training", "runtime.trainable", "runtime.judge", "runtime.data",
    )  # fmt: skip
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: saying which.
        """
        if self.validation is None:
            for name in ("monitor", "patience", "every"):
                if getattr(self, name) is not None:
                    raise ValueError(f"`{name}` needs `validation`: data to look at, other than what is trained on")
        elif str(self.validation) == str(self.data):
            raise ValueError("`validation` is the data that is trained on; take another split or slice")
