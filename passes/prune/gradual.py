"""The options of gradual pruning: in steps, with training after each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

from mopt.passes.contract import Pass
from mopt.passes.tune.options import TrainingPass
from mopt.plugin import option
from mopt.plugin.options import schema
from mopt.values import DataRef, LossRef, MetricRef, Ratio

_TUNING: Final = {one.name: one for one in schema(TrainingPass)}


def _as_tuned(name: str) -> Any:
    """Declare an option of `tune` anew: same default, help and bounds."""
    own = _TUNING[name]
    return option(own.default, help=f"training: {own.help}", minimum=own.minimum, maximum=own.maximum)


@dataclass(frozen=True, kw_only=True)
class Gradual(Pass):
    """What a pruning pass can be told about pruning in steps, training after each (Zhu & Gupta 2017).

    An instance with `steps` trains, and says so in its own `trains`; the class itself does not.
    """

    data: DataRef | None = option(None, help="samples with targets to train on after each of the `steps`")
    loss: LossRef | None = option(None, help="what training minimises over the targets")
    steps: int | None = option(
        None, help="prune in so many steps and train after each; without, all at once and no training", minimum=1
    )
    schedule: Literal["polynomial", "linear"] = option(
        "polynomial", help="how the share rises over the `steps`: fast first, 1 - (1 - k/steps)³, or evenly"
    )
    epochs: int = option(1, help="training: passes over the data after each step", minimum=1)
    batch: int = _as_tuned("batch")
    rate: float = _as_tuned("rate")
    rate_schedule: Literal["cosine", "linear", "constant"] = option(
        "cosine", help="training: how the rate falls to the end of each step"
    )
    warmup: Ratio = _as_tuned("warmup")  # noqa: RUF009
    optimizer: Literal["adamw", "adam", "sgd"] = _as_tuned("optimizer")
    weight_decay: float = _as_tuned("weight_decay")
    clip: float = _as_tuned("clip")
    batchnorm: Literal["train", "freeze"] = _as_tuned("batchnorm")
    validation: DataRef | None = _as_tuned("validation")  # noqa: RUF009
    monitor: MetricRef | None = _as_tuned("monitor")  # noqa: RUF009

    tools: ClassVar[tuple[str, ...]] = TrainingPass.tools
    stands_on: ClassVar[tuple[str, ...]] = TrainingPass.stands_on

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: saying which.
        """
        if self.steps is None:
            for name in _OF_TRAINING:
                if getattr(self, name) != _DEFAULTS[name]:
                    raise ValueError(f"`{name}` needs `steps`: without, nothing is trained")
            for name, what in (("data", self.data), ("loss", self.loss)):
                if what is not None and name not in self._without_steps():
                    raise ValueError(f"`{name}` needs `steps`: without, this pass uses none")
            return
        if self.data is None or self.loss is None:
            missing = " and ".join(f"`{name}`" for name in ("data", "loss") if getattr(self, name) is None)
            raise ValueError(f"`steps` needs {missing}: after each step the model is trained")
        if self.validation is None and self.monitor is not None:
            raise ValueError("`monitor` needs `validation`: data to look at, other than what is trained on")
        if self.validation is not None and str(self.validation) == str(self.data):
            raise ValueError("`validation` is the data that is trained on; take another split or slice")
        object.__setattr__(self, "trains", True)

    def _without_steps(self) -> tuple[str, ...]:
        """Return which of `data` and `loss` are of use where all is pruned at once."""
        return ()


_DEFAULTS: Final = {one.name: one.default for one in schema(Gradual)}
_OF_TRAINING: Final = tuple(name for name in _DEFAULTS if name not in ("data", "loss", "steps", "batch"))
"""Options that mean nothing without `steps` (a batch is also what gradients are averaged over)."""
