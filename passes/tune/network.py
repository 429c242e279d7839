"""The network of a pass that trains: what its options leave free to change, and what earlier steps promised held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mopt.passes.tune.promised import clustered_weights, hold_zeros, sparse_weights
from mopt.runtime.trainable.runner import TrainableModule

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.passes.contract import Context
    from mopt.passes.tune.options import TrainingPass


def trained_network(
    module: Module, options: TrainingPass, context: Context, kind: type[TrainableModule] = TrainableModule, **more: Any
) -> TrainableModule:
    """Return a module as a network that trains, with the zeros and clusters that were promised held.

    Args:
        kind: the class to make it of.
        more: further arguments for it.

    Raises:
        NotTrainableError: see `TrainableModule`.
    """
    network = kind(
        module,
        batch_norm="train" if options.batchnorm == "train" else "frozen",
        freeze=options.skip,
        only=options.only,
        hold_zeros=False,
        hold_clusters=clustered_weights(module, context.promises),
        **more,
    )
    hold_zeros(network, sparse_weights(module, context.promises))
    return network
