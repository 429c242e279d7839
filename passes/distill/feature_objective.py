"""What feature distillation minimises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from mopt.passes.distill.divergence import direction_error, relative_error
from mopt.passes.distill.objectives import Shared
from mopt.passes.distill.projection import channel_axis, fitted_projection, projected
from mopt.runtime.training.batches import TrainingData
from mopt.runtime.training.objective import Batch, Objective

if TYPE_CHECKING:
    from mopt.ir import TensorInfo
    from mopt.passes.distill.features import Features
    from mopt.passes.distill.guidance import Guidance
    from mopt.passes.distill.taps import Tapped
    from mopt.runtime.contract import Split


_SAMPLES: Final = 32
"""Samples on which shapes are looked at and projections fitted."""


@dataclass(frozen=True)
class Compared:
    """Two values to compare: the student's, the teacher's, the axis of their channels, and a projection or None."""

    student: str
    teacher: str
    axis: int
    by: torch.nn.Linear | None
    told: str


def compared(
    network: Tapped,
    guidance: Guidance,
    split: Split,
    inputs: Sequence[TensorInfo],
    values: Sequence[tuple[str, str]],
    options: Features,
) -> tuple[Compared, ...]:
    """Look at the features of the first samples, and return how each pair is compared.

    Raises:
        PassError: shapes can't be compared.
    """
    data = TrainingData(split, inputs, _SAMPLES, shuffle=False)
    feeds, _, samples = data.batch(0)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in feeds.items()}
    network.eval()
    with torch.no_grad():
        network(tensors)
    mine = network.pop()
    theirs = guidance.outputs(Batch(tensors, None, samples), torch.device("cpu"))
    found = []
    for (own, other), (layer, counterpart) in zip(values, options.pairs, strict=True):
        pair = f"`{layer}` and the teacher's `{counterpart}`"
        axis, differs = channel_axis(mine[own].shape, theirs[other].shape, pair)
        by, told = None, ""
        if differs:
            widths = mine[own].shape[axis], theirs[other].shape[axis]
            by = fitted_projection(mine[own].float(), theirs[other], axis)
            told = f"`{layer}` from {widths[0]} channels to {widths[1]}"
        found.append(Compared(own, other, axis, by, told))
    return tuple(found)


class FeatureObjective(Shared):
    """The student's features against the teacher's, mean over the pairs.

    Args:
        network: keeps the student's features.
        guidance: gives the teacher's.
        pairs: what is compared; their projections train along.
        options: how.
        loss: over the targets.
    """

    def __init__(
        self,
        network: Tapped,
        guidance: Guidance,
        pairs: Sequence[Compared],
        options: Features,
        loss: Objective | None,
    ) -> None:
        super().__init__(options.share, loss)
        # In a tuple, so that the network is no part of the objective.
        self._network, self._guidance, self._pairs, self._options = (network,), guidance, tuple(pairs), options
        self.projections = torch.nn.ModuleList(pair.by for pair in pairs if pair.by is not None)

    def distance(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return the mean over the pairs of layers."""
        del outputs
        features = self._network[0].pop()
        device = next(iter(features.values())).device
        told = self._guidance.outputs(batch, device)
        parts = []
        for pair in self._pairs:
            mine = features[pair.student].float()
            if pair.by is not None:
                mine = projected(pair.by, mine, pair.axis)
            if self._options.distance == "cosine":
                parts.append(direction_error(mine, told[pair.teacher], pair.axis))
            else:
                parts.append(relative_error(mine, told[pair.teacher]))
        return torch.stack(parts).mean()
