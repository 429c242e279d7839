"""The figure that decides when to stop and which weights to keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from mopt.runtime.contract import Loss, Metric
from mopt.runtime.judge.evaluate import evaluate

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.runtime.contract import Split

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Monitor:
    """A metric, or a loss, over a validation split.

    Attributes:
        name: what to call it.
        criterion: the metric or loss.
        goal: which direction is better.
        split: the samples; others than those that are trained on.
        module: whose inputs the samples are fitted to, and whose metadata a metric may read.
        batch: samples a run.
    """

    name: str
    criterion: Metric | Loss
    goal: Literal["min", "max"]
    split: Split
    module: Module
    batch: int = 32

    def measure(self, network: torch.nn.Module, device: torch.device) -> float:
        """Return the figure of a network, in evaluation mode and float32; it is left in evaluation mode.

        Raises:
            DataError: the split does not fit.
        """
        network.eval()
        runner = _NetworkRunner(network, device, tuple(self.module.inputs))
        metrics = {self.name: self.criterion} if isinstance(self.criterion, Metric) else {}
        losses = {self.name: self.criterion} if isinstance(self.criterion, Loss) else {}
        return evaluate(runner, self.split, metrics, self.batch, losses=losses, module=self.module)[self.name]

    def better(self, figure: float, than: float | None) -> bool:
        """Tell whether a figure beats another; one that is no number beats nothing, and any number beats none."""
        if figure != figure:
            return False
        if than is None or than != than:
            return True
        return figure < than if self.goal == "min" else figure > than


@dataclass(frozen=True)
class _NetworkRunner:
    network: torch.nn.Module
    device: torch.device
    inputs: tuple[Any, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(self.device) for name, array in feeds.items()}
        with torch.no_grad():
            outputs = self.network(tensors)
        return {name: _array(value) for name, value in outputs.items()}


def _array(value: Any) -> Array:
    """Return a tensor as an array; numpy has no bfloat16, so that becomes float32."""
    tensor = value.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array
