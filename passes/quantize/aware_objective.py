"""What quantisation-aware training minimises: the recipe's loss, the distance from a teacher, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mopt.ir import Module, TensorInfo
from mopt.passes.contract import Context, PassError
from mopt.runtime.contract import DataError
from mopt.runtime.trainable.runner import TrainableModule
from mopt.runtime.training.objective import Batch, LossObjective, Objective

_LEAST = 1e-8


class Teacher:
    """A network that gives outputs to match. No part of what is trained and checkpointed.

    Args:
        name: what the recipe calls it.
        context: gives it.
        student: has the inputs and outputs that it must have.

    Raises:
        PassError: it has others.
    """

    def __init__(self, name: str, context: Context, student: Module) -> None:
        module = context.module(name)
        for what, ours, theirs in (
            ("takes", student.inputs, module.inputs), ("gives", student.outputs, module.outputs),
        ):  # fmt: skip
            if {info.name for info in ours} != {info.name for info in theirs}:
                raise PassError(
                    f"the teacher `{name}` {what} {_listed(theirs)}, and the network {_listed(ours)}",
                    help="`distill.response` matches inputs and outputs of other names; quantise before or after it",
                )
        self._network = TrainableModule(module, batch_norm="frozen", trainable=False, dropout=False).eval()
        self.distributions = frozenset(
            value.name or "" for value in module.graph.outputs if _ends_in_softmax(value.producer())
        )

    def __call__(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the outputs that are reals, by name."""
        device = next(iter(feeds.values())).device
        if self._network.device != device:
            self._network.to(device)
        with torch.no_grad():
            found = self._network(feeds)
        return {name: value.float() for name, value in found.items() if _is_real(value)}


class Matching(Objective):
    """The mean over outputs of how far they are from the teacher's.

    Args:
        teacher: gives them.
        match: `kl`: divergence of the distributions over the last axis, summed over it, times the temperature squared;
            `mse`: mean square of the differences, relative to that of the teacher's outputs.
        temperature: what logits are divided by before; outputs of a Softmax are distributions as they are.
        alpha: the weight of this; `base` has 1 - alpha.
        base: the recipe's loss, or None.
        penalty: what is added.
    """

    def __init__(
        self, teacher: Teacher | None, match: str, temperature: float, alpha: float, base: LossObjective | None,
        penalty: Callable[[], torch.Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self._hidden = (teacher,)
        self._match, self._temperature, self._alpha = match, temperature, alpha
        self.base, self._penalty = base, penalty

    def forward(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return the objective of a batch.

        Raises:
            DataError: see `LossObjective`; or the network has no outputs that are reals.
        """
        (teacher,) = self._hidden
        terms: list[torch.Tensor] = []
        if teacher is not None and self._alpha > 0:
            wanted = teacher(batch.feeds)
            if not wanted:
                raise DataError("the network's outputs are not reals: there is nothing to match with the teacher's")
            parts = [self._distance(outputs[name], given, name, teacher) for name, given in wanted.items()]
            share = self._alpha if self.base is not None else 1.0
            terms.append(share * torch.stack(parts).mean())
        if self.base is not None and (teacher is None or self._alpha < 1):
            terms.append(self.base(outputs, batch) * (1.0 if teacher is None else 1 - self._alpha))
        if self._penalty is not None:
            terms.append(self._penalty())
        return torch.stack([term.reshape(()) for term in terms]).sum()

    def _distance(self, given: torch.Tensor, wanted: torch.Tensor, name: str, teacher: Teacher) -> torch.Tensor:
        if self._match == "mse":
            return (given - wanted).square().mean() / wanted.square().mean().clamp(min=_LEAST)
        if name in teacher.distributions:
            # Far below what float32 tells from zero the logarithm's gradient would be all there is.
            ours, theirs = given.clamp(min=_LEAST).log(), wanted.clamp(min=_LEAST).log()
            return (wanted * (theirs - ours)).sum(-1).mean()
        ours = torch.log_softmax(given / self._temperature, -1)
        theirs = torch.log_softmax(wanted / self._temperature, -1)
        return (theirs.exp() * (theirs - ours)).sum(-1).mean() * self._temperature**2


def _listed(infos: Sequence[TensorInfo]) -> str:
    return ", ".join(f"`{info.name}`" for info in infos)


def _is_real(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 0


def _ends_in_softmax(node: Any) -> bool:
    """Say whether an output is a Softmax over its last axis, if only behind what leaves that axis alone."""
    while node is not None and node.op_type in ("Identity", "Cast"):
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Softmax":
        return False
    axis, shape = node.attributes.get("axis"), node.outputs[0].shape
    number = -1 if axis is None else axis.as_int()
    return number == -1 or (shape is not None and number == len(shape) - 1)
