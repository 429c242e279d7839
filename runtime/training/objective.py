"""What training minimises: the one seam between the loop and whoever trains (tuning, distilling, quantising)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mopt.runtime.contract import DataError
from mopt.runtime.judge.torch_losses import as_tensor

if TYPE_CHECKING:
    from mopt.runtime.contract import Loss


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch, on the device that trains.

    Attributes:
        feeds: the network's inputs by name.
        targets: a tensor where targets are numbers of one shape, else a list; None where samples have none.
        samples: i64[n], which samples of the split these are (the key of whatever is cached by sample).
        step, epoch: where training stands, both from 0.
    """

    feeds: Mapping[str, torch.Tensor]
    targets: Any
    samples: np.ndarray[Any, Any]
    step: int = 0
    epoch: int = 0


class Objective(torch.nn.Module):
    """The loss of a batch.

    Parameters of an objective (the projections of feature distillation) are trained with the network's, and its
    whole state is part of every checkpoint. A teacher that must not be trained has `requires_grad_(False)`, or is
    kept where `torch.nn.Module` does not see it.
    """

    def forward(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return one number, differentiable in the outputs.

        Args:
            outputs: the network's outputs by name, float32 also where it computes in less.
            batch: what the network was fed, and the targets.

        Raises:
            DataError: targets or outputs are not what the objective takes.
        """
        raise NotImplementedError


class LossObjective(Objective):
    """A loss of the recipe over the data's targets."""

    def __init__(self, loss: Loss, name: str = "") -> None:
        super().__init__()
        self._loss, self._name = loss, name or loss.name

    def forward(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return the loss of a batch."""
        if batch.targets is None:
            raise DataError(f"the samples have no `target`, which the loss `{self._name}` compares the outputs with")
        try:
            value = self._loss(outputs, batch.targets)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise DataError(
                f"the loss `{self._name}` can't take outputs {shapes(outputs)} with these targets: {first_line(error)}"
            ) from error
        return checked(value, self._name)


def checked(value: Any, name: str) -> torch.Tensor:
    """Return a loss that is one number which gradients flow from.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shown = f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:80]
        raise DataError(f"the loss `{name}` returned {shown}; a loss is one number as a torch tensor")
    if torch.is_grad_enabled() and not value.requires_grad:
        raise DataError(
            f"the loss `{name}` does not depend on the network's outputs in a way that can be differentiated; "
            "compute it with torch from the tensors it is given"
        )
    return value.reshape(())


def targets_on(targets: Any, device: torch.device) -> Any:
    """Return a batch's targets as a tensor on the device where they are numbers of one shape, else as a list."""
    found = as_tensor(targets)
    return found.to(device) if isinstance(found, torch.Tensor) else found


def shapes(tensors: Mapping[str, Any]) -> str:
    """Return names and shapes, for messages."""
    return ", ".join(f"`{name}` {list(getattr(tensor, 'shape', ()))}" for name, tensor in tensors.items())


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory ran out, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
