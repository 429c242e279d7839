"""What distillation minimises: the distance from a teacher, beside a loss over the targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from mopt.passes.distill.divergence import as_logits, class_divergence, sequence_divergence
from mopt.runtime.contract import DataError
from mopt.runtime.training.objective import Batch, Objective

if TYPE_CHECKING:
    from mopt.passes.distill.guidance import Guidance
    from mopt.passes.distill.response import Response


class Shared(Objective):
    """A teacher's part and the targets' part.

    Args:
        share: what the teacher's part is multiplied by; the other has the rest.
        loss: over the targets; None where the teacher is all.
    """

    def __init__(self, share: float, loss: Objective | None) -> None:
        super().__init__()
        self._share, self._loss = share, loss

    def forward(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return the weighted sum."""
        if self._loss is None:
            return self.distance(outputs, batch)
        loss: torch.Tensor = self._loss(outputs, batch)
        return self._share * self.distance(outputs, batch) + (1 - self._share) * loss

    def distance(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return how far the student is from the teacher."""
        raise NotImplementedError


@dataclass(frozen=True)
class Comparison:
    """An output of the student, one of the teacher, and what each is (`logits` or `probabilities`)."""

    student: str
    teacher: str
    student_kind: str = "logits"
    teacher_kind: str = "logits"


class ResponseObjective(Shared):
    """The student's outputs against the teacher's.

    Args:
        guidance: gives the teacher's outputs.
        pairs: what is compared.
        options: how.
        loss: over the targets.
    """

    def __init__(
        self, guidance: Guidance, pairs: tuple[Comparison, ...], options: Response, loss: Objective | None
    ) -> None:
        super().__init__(options.share, loss)
        self._guidance, self._pairs, self._options = guidance, pairs, options

    def distance(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return the mean over the pairs of outputs."""
        told = self._guidance.outputs(batch, next(iter(outputs.values())).device)
        parts = [self._of(pair, outputs[pair.student], told[pair.teacher]) for pair in self._pairs]
        return torch.stack(parts).mean()

    def _of(self, pair: Comparison, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        options = self._options
        if options.match == "ctc" and options.layout == "tnc" and mine.dim() == 3:
            mine = mine.transpose(0, 1)  # as the teacher's come
        same = mine.shape == theirs.shape
        if not same and not (options.match == "ctc" and mine.shape[::2] == theirs.shape[::2]):
            raise DataError(
                f"output `{pair.student}` of the student has the shape {list(mine.shape)}, `{pair.teacher}` of the "
                f"teacher {list(theirs.shape)}"
            )
        if options.match == "mse":
            return torch.nn.functional.mse_loss(mine, theirs)
        mine, theirs = as_logits(mine, pair.student_kind), as_logits(theirs, pair.teacher_kind)
        if options.match == "kl":
            return class_divergence(mine, theirs, options.temperature, options.axis)
        return sequence_divergence(
            mine, theirs, options.temperature, options.blank % mine.shape[-1], float(options.blanks)
        )
