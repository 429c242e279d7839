"""Copies of a network's weights, to go back to."""

from __future__ import annotations

from typing import Any

import torch

_Tensors = dict[str, torch.Tensor]


class Weights:
    """Copies of parameters and buffers by what they are kept for (`best`, `good`), on the network's device.

    Args:
        network: whose weights.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network
        self._kept: dict[str, tuple[int, _Tensors]] = {}

    def keep(self, purpose: str, step: int) -> None:
        """Copy the weights, which stand after so many steps; an earlier copy's memory is used again."""
        current = self._tensors()
        known = self._kept.get(purpose)
        if known is None:
            self._kept[purpose] = (step, {name: tensor.clone() for name, tensor in current.items()})
            return
        with torch.no_grad():
            for name, tensor in current.items():
                known[1][name].copy_(tensor)
        self._kept[purpose] = (step, known[1])

    def has(self, purpose: str) -> bool:
        """Tell whether there is a copy."""
        return purpose in self._kept

    def restore(self, purpose: str) -> int:
        """Put a copy back; return the steps after which it was made."""
        step, kept = self._kept[purpose]
        self.put_back(kept)
        return step

    def buffers(self) -> _Tensors:
        """Return copies of the buffers, which a forward pass may change."""
        return {name: tensor.detach().clone() for name, tensor in self._network.named_buffers()}

    def put_back(self, tensors: _Tensors) -> None:
        """Write copies into the network's own tensors."""
        current = self._tensors()
        with torch.no_grad():
            for name, tensor in tensors.items():
                current[name].copy_(tensor)

    def finite(self) -> bool:
        """Tell whether every parameter is finite."""
        return all(bool(torch.isfinite(p).all()) for p in self._network.parameters() if p.is_floating_point())

    def state(self) -> dict[str, Any]:
        """Return the copies, for a checkpoint."""
        return {purpose: {"step": step, "tensors": tensors} for purpose, (step, tensors) in self._kept.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        devices = {name: tensor.device for name, tensor in self._tensors().items()}
        self._kept = {
            purpose: (entry["step"], {name: tensor.to(devices[name]) for name, tensor in entry["tensors"].items()})
            for purpose, entry in state.items()
        }

    def _tensors(self) -> _Tensors:
        return {name: tensor.detach() for name, tensor in self._network.state_dict().items()}
