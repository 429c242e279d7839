"""What happens between steps beside the optimiser: masks that grow, ranges that freeze, weights that are held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Hook:
    """Called around every step, in the order of the list that the loop was given.

    A hook may change values of parameters and buffers in place; it may not replace tensors, which the optimiser
    holds. What it remembers between steps it gives and takes as plain data and tensors, for checkpoints.
    """

    def start(self, network: torch.nn.Module, total: int) -> None:
        """Training is set up, with `total` steps in all; what is restored from a checkpoint is restored afterwards.

        The only place in which a hook may register buffers: a checkpoint is loaded into what is there then.
        """

    def before_step(self, network: torch.nn.Module, step: int) -> None:
        """A step (from 0) begins."""

    def after_step(self, network: torch.nn.Module, step: int) -> None:
        """The optimiser has changed the weights."""

    def may_keep(self, step: int) -> bool:
        """Tell whether the weights after so many steps may be the ones to keep (not while masks still grow, say).

        After the last step they may always.
        """
        return True

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
