"""The options that both ways to distil have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from mopt.passes.tune.options import TrainingPass
from mopt.plugin import option
from mopt.values import ModelRef


@dataclass(frozen=True, kw_only=True)
class Distillation(TrainingPass):
    """Training that follows a teacher, beside a loss over the targets or without one."""

    teacher: ModelRef = option(
        help="a model or an earlier pipeline; `parent` is what this pipeline starts from, before its first step"
    )
    alpha: float | None = option(
        None,
        help="the teacher's share of what is minimised, `loss` having the rest; default: 0.5",
        minimum=0,
        maximum=1,
    )
    mode: Literal["offline", "online"] = option(
        "offline", help="run the teacher once over the data and keep what it says, or run it again at every step"
    )
    inputs: Mapping[str, str] = option(factory=dict, help="where names differ: the student's input, then the teacher's")

    tools: ClassVar[tuple[str, ...]] = (*TrainingPass.tools, "onnxruntime-gpu", "onnxruntime")
    stands_on: ClassVar[tuple[str, ...]] = TrainingPass.stands_on
    holds_grids: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: saying which.
        """
        super().__post_init__()
        if self.loss is None and self.alpha is not None and self.alpha < 1:
            raise ValueError("`alpha` leaves a share to a loss over the targets, and there is none; give `loss=`")
        if self.loss is None and self.validation is not None and self.monitor is None:
            raise ValueError("`validation` needs something to look at on it: give `monitor=`, a metric, or `loss=`")

    @property
    def share(self) -> float:
        """What the teacher's part of the objective is multiplied by; the loss over the targets has the rest."""
        if self.loss is None:
            return 1.0
        return 0.5 if self.alpha is None else float(self.alpha)
