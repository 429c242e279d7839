"""Fine-tuning of a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopt.ir import Module
from mopt.passes.contract import Context, PassResult
from mopt.passes.tune.training import train_network, training_errors

if TYPE_CHECKING:
    from mopt.passes.tune.tune import Tune


def tune(module: Module, options: Tune, context: Context) -> PassResult:
    """Train `module` in place. See `Tune.run`."""
    with training_errors():
        from mopt.passes.tune.promised import clustered_weights, hold_zeros, sparse_weights
        from mopt.runtime.trainable.runner import TrainableModule
        from mopt.runtime.trainable.writing import write_back
        from mopt.runtime.training.objective import LossObjective

        network = TrainableModule(
            module,
            batch_norm="train" if options.batchnorm == "train" else "frozen",
            freeze=options.skip,
            only=options.only,
            hold_zeros=False,
            hold_clusters=clustered_weights(module, context.promises),
        )
        hold_zeros(network, sparse_weights(module, context.promises))
        objective = LossObjective(context.loss(options.loss), options.loss.name)
        result, notes = train_network(module, network, objective, options, context)
        if result.kept == 0:
            return PassResult(module, False, notes)
        write_back(network, module)
    module.touch()
    return PassResult(module, True, notes)
