"""`tune`: train a graph on data, whatever framework it came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mopt.passes.contract import Context, PassResult
from mopt.passes.tune.options import TrainingPass
from mopt.plugin import option, register
from mopt.values import LossRef

if TYPE_CHECKING:
    from mopt.ir import Module


@register("tune")
@dataclass(frozen=True)
class Tune(TrainingPass):
    """Fine-tune the weights on data with a loss, keeping what earlier passes promised.

    The graph is trained as it is, by PyTorch, whichever framework it came from. Pruned weights stay zero, clustered
    ones keep their clusters, quantised ones stay on their grid. With `monitor` and `validation` the best weights are
    kept (the untrained ones, if none were better), else the last ones. Killed or interrupted, the same command goes
    on where it stopped, to the same result.
    """

    loss: LossRef = option(help="what to minimise: built in (`cross_entropy`, `ctc`, `mse`, `kl`) or declared")

    version: ClassVar[int] = 1
    source: ClassVar[str] = (
        "AdamW: Loshchilov & Hutter 2019 (arXiv:1711.05101); cosine schedule: Loshchilov & Hutter 2017 "
        "(arXiv:1608.03983)"
    )
    holds_grids: ClassVar[bool] = True

    def run(self, module: Module, context: Context) -> PassResult:
        """Train `module`.

        Raises:
            PassError: it has operators that can't be trained, or nothing to train; the loss is no number; memory ran
                out; PyTorch or Accelerate is not installed.
            DataError: data, model and loss do not fit.
        """
        from mopt.passes.tune.tune_run import tune

        return tune(module, self, context)
