"""A loss as a figure of a table: evaluated on outputs that numpy holds, without gradients."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mopt.runtime.contract import DataError

if TYPE_CHECKING:
    from mopt.runtime.contract import Loss


class LossState:
    """Sums a loss over batches, each weighted by its number of samples.

    Raises:
        DataError: torch is not installed.
    """

    def __init__(self, name: str, loss: Loss) -> None:
        if importlib.util.find_spec("torch") is None:
            raise DataError(f"the loss `{name}` needs PyTorch: pip install 'mopt[torch]'")
        self._name, self._loss = name, loss
        self._total, self._seen = 0.0, 0

    def update(self, outputs: Mapping[str, np.ndarray[Any, Any]], targets: Sequence[Any]) -> None:
        """Take a batch."""
        import torch
        from mopt.runtime.judge.torch_losses import as_tensor

        tensors = {name: torch.from_numpy(np.array(array)) for name, array in outputs.items() if array.dtype != object}
        try:
            with torch.no_grad():
                value = float(self._loss(tensors, as_tensor(targets)))
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            shapes = ", ".join(f"`{name}` {list(array.shape)}" for name, array in outputs.items())
            raise DataError(
                f"the loss `{self._name}` can't take outputs {shapes} with these targets: {error}"
            ) from error
        self._total += value * len(targets)
        self._seen += len(targets)

    def compute(self) -> float:
        """Return the mean over samples."""
        return self._total / self._seen if self._seen else float("nan")
