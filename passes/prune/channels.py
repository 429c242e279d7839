"""`prune.channels`: take whole channels out, in every layer that they pass through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register
from mopt.values import DataRef, Globs, Ratio

if TYPE_CHECKING:
    from mopt.ir import Module


@register("prune.channels")
@dataclass(frozen=True)
class Channels(Pass):
    """Cut the least important channels (structured, one-shot): the graph gets smaller and faster as it is.

    Channels that operators tie together (through residual sums, concatenations, depthwise convolutions, gates, heads)
    go together: their importance is that of the whole group. The model's inputs and outputs keep their shapes, and
    every group keeps at least one channel. With `data`, every layer behind a cut is refitted to give what it gave
    before: often what makes pruning without training usable.
    """

    amount: Ratio = option(help="share of what `of` names to take away", minimum=0, maximum=1)
    of: Literal["channels", "parameters", "macs", "latency"] = option(
        "channels",
        help="what the amount is a share of; of the others at least that share of the whole model's; latency is "
        "measured, on onnxruntime with one thread of this machine",
    )
    criterion: Literal["l1", "l2", "fpgm", "bn", "taylor", "random"] = option(
        "l1", help="importance: norm of the weights, distance from their median, batch-norm scale, gradient, chance"
    )
    scope: Literal["local", "global"] = option(
        "local", help="the same share of every group, or the least important channels of all groups together"
    )
    round_to: int = option(1, help="keep multiples of this many channels, where a group has as many", minimum=1)
    only: Globs = option((), help="source layers whose output channels to cut; none means all")
    skip: Globs = option((), help="source layers whose output channels to leave alone")
    data: DataRef | None = option(None, help="calibration samples, to make up for what was cut; without, nothing is")
    correct: Literal["bias", "reconstruct"] = option(
        "reconstruct",
        help="what `data` is used for: the biases only, or kernels and biases, by least squares on what layers gave",
    )

    source: ClassVar[str] = "Fang et al. 2023, DepGraph: Towards Any Structural Pruning (arXiv:2301.12900)"
    tools: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", "onnxruntime")
    # Promises are made of weights of a size; `data` changes their values, too.
    breaks: ClassVar[tuple[str, ...]] = ("sparsity", "clusters")
    needs_float: ClassVar[bool] = True
    needs_dense: ClassVar[bool] = True

    def run(self, module: Module, context: Context) -> PassResult:
        """Prune `module` in place.

        Raises:
            PassError: nothing can be cut, `only` matches nothing, the amount leaves nothing or can't be reached, a
                weight holds a NaN or an infinity, or the criterion needs what is not there.
        """
        from mopt.passes.prune.channels_run import prune

        return prune(module, self, context)
