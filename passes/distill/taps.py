"""A network that keeps what some of its layers gave, and puts out what it always did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mopt.ir import Module
from mopt.runtime.trainable.runner import TrainableModule


class Tapped(TrainableModule):
    """A trainable module of a graph with further outputs (`tapped`), which stay inside.

    Args:
        module: the graph.
        own: the outputs that are to be put out.
        more: see `TrainableModule`.

    Attributes:
        features: what the last forward pass gave for each output of the graph.
    """

    def __init__(self, module: Module, *, own: tuple[str, ...], **more: Any) -> None:
        super().__init__(module, **more)
        self._own = own
        self.features: dict[str, torch.Tensor] = {}

    def forward(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph; see `TrainableModule.forward`."""
        found = super().forward(feeds)
        self.features = found
        return {name: found[name] for name in self._own}

    def pop(self) -> dict[str, torch.Tensor]:
        """Return the features, and let go of them."""
        found, self.features = self.features, {}
        return found
