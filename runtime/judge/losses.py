"""The built-in losses, over torch tensors. Declarations only: torch is imported when a loss is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mopt.plugin import option, register
from mopt.runtime.contract import Loss
from mopt.values import PythonRef


@register("python")
@dataclass(frozen=True)
class PythonLoss(Loss):
    """A loss of the recipe's Python: `name(outputs, targets)`, one differentiable number for a batch.

    `outputs` maps output names to tensors; `targets` is a tensor, or a list where targets are text or of unequal
    shape.
    """

    ref: PythonRef = option(help='`"file.py:name"`')
    args: Mapping[str, object] = option(factory=dict, help="more keyword arguments")

    def __call__(self, outputs: Mapping[str, Any], targets: Any) -> Any:
        """Return one number per batch as a scalar torch tensor."""
        from mopt.runtime.judge.torch_losses import python_loss

        return python_loss(self, outputs, targets)


@dataclass(frozen=True)
class _OutputLoss(Loss):
    output: str = option("", help="the model's output; default: its only or first one")


@register("cross_entropy")
@dataclass(frozen=True)
class CrossEntropy(_OutputLoss):
    """Mean cross entropy of classes, in nats; classes along the second axis."""

    kind: Literal["logits", "probabilities"] = option("logits", help="what the model puts out")
    smoothing: float = option(0.0, minimum=0.0, maximum=1.0, help="label smoothing (Szegedy et al. 2016)")

    def __call__(self, outputs: Mapping[str, Any], targets: Any) -> Any:
        """Return one number per batch as a scalar torch tensor."""
        from mopt.runtime.judge.torch_losses import cross_entropy

        return cross_entropy(self, outputs, targets)


@register("mse")
@dataclass(frozen=True)
class MeanSquaredError(_OutputLoss):
    """Mean squared error over all elements."""

    def __call__(self, outputs: Mapping[str, Any], targets: Any) -> Any:
        """Return one number per batch as a scalar torch tensor."""
        from mopt.runtime.judge.torch_losses import squared_error

        return squared_error(self, outputs, targets)


@register("ctc")
@dataclass(frozen=True)
class Ctc(_OutputLoss):
    """Connectionist temporal classification (Graves et al. 2006), mean over samples by target length.

    Targets are class numbers, one sequence a sample, or text where `charset` gives the classes' characters.
    """

    kind: Literal["logits", "probabilities", "log_probabilities"] = option("logits", help="what the model puts out")
    blank: int = option(0, help="the class of the blank; -1: the last")
    layout: Literal["ntc", "tnc"] = option("ntc", help="order of the output's axes: batch, time, classes")
    charset: tuple[str, ...] = option((), help='the characters of the classes in order, blank left out: ["0123456789"]')

    def __call__(self, outputs: Mapping[str, Any], targets: Any) -> Any:
        """Return one number per batch as a scalar torch tensor."""
        from mopt.runtime.judge.torch_losses import ctc

        return ctc(self, outputs, targets)


@register("kl")
@dataclass(frozen=True)
class KullbackLeibler(_OutputLoss):
    """Divergence KL(target ‖ output) of class distributions, mean over samples, softened (Hinton et al. 2015).

    Targets are a teacher's logits, or probabilities where `kind` says so. The factor temperature² keeps the
    gradient's size.
    """

    kind: Literal["logits", "probabilities"] = option("logits", help="what the model and the targets are")
    temperature: float = option(1.0, minimum=1e-3, help="logits are divided by it")

    def __call__(self, outputs: Mapping[str, Any], targets: Any) -> Any:
        """Return one number per batch as a scalar torch tensor."""
        from mopt.runtime.judge.torch_losses import divergence

        return divergence(self, outputs, targets)
