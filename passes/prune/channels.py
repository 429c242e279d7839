"""`prune.channels`: take whole channels out, in every layer that they pass through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, PassResult
from mopt.passes.prune.gradual import Gradual
from mopt.plugin import option, register
from mopt.values import DataRef, Globs, Ratio

if TYPE_CHECKING:
    from mopt.ir import Module


@register("prune.channels")
@dataclass(frozen=True)
class Channels(Gradual):
    """Cut the least important channels (structured), at once or in steps: the graph gets smaller and faster as it is.

    Channels that operators tie together (through residual sums, concatenations, depthwise convolutions, gates, heads)
    go together: their importance is that of the whole group. The model's inputs and outputs keep their shapes, and
    every group keeps at least one channel. With `data`, every layer behind a cut is refitted to give what it gave
    before: often what makes pruning without training usable. With `steps` (and `loss`), a share more is cut in each
    step, refitted and trained.
    """

    amount: Ratio = option(help="share of what `of` names to take away", minimum=0, maximum=1)
    of: Literal["channels", "parameters", "macs", "latency"] = option(
        "channels",
        help="what the amount is a share of; of the others at least that share of the whole model's; latency is "
        "measured, on onnxruntime with one thread of this machine",
    )
    criterion: Literal["l1", "l2", "fpgm", "bn", "taylor", "random"] = option(
        "l1",
        help="importance: norm of the weights, distance from their median, batch-norm scale, gradient × weight, chance",
    )
    scope: Literal["local", "global"] = option(
        "local", help="the same share of every group, or the least important channels of all groups together"
    )
    round_to: int = option(1, help="keep multiples of this many channels, where a group has as many", minimum=1)
    only: Globs = option((), help="source layers whose output channels to cut; none means all")
    skip: Globs = option((), help="source layers whose output channels to leave alone")
    data: DataRef | None = option(
        None,
        help="samples to make up for what was cut with (`correct`); with targets, to train on (`steps`) and to rank "
        "by gradients (`criterion=taylor`)",
        keyword=True,
    )
    correct: Literal["bias", "reconstruct", "none"] = option(
        "reconstruct",
        help="what `data` makes up for: biases only; kernels and biases, by least squares on what layers gave; nothing",
        keyword=True,
    )

    source: ClassVar[str] = (
        "Fang et al. 2023, DepGraph: Towards Any Structural Pruning (arXiv:2301.12900); taylor: Molchanov et al. 2019 "
        "(arXiv:1906.10771); steps: Zhu & Gupta 2017 (arXiv:1710.01878)"
    )
    tools: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", "onnxruntime", *Gradual.tools)
    # Promises are made of weights of a size; `data` changes their values, too.
    breaks: ClassVar[tuple[str, ...]] = ("sparsity", "clusters")
    needs_float: ClassVar[bool] = True
    needs_dense: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: saying which.
        """
        super().__post_init__()
        if self.criterion == "taylor" and (self.data is None or self.loss is None):
            missing = " and ".join(f"`{name}`" for name in ("data", "loss") if getattr(self, name) is None)
            raise ValueError(f"`criterion=taylor` needs {missing}: it ranks by the gradients of a loss on data")

    def _without_steps(self) -> tuple[str, ...]:
        return ("data", "loss") if self.criterion == "taylor" else ("data",)

    def run(self, module: Module, context: Context) -> PassResult:
        """Prune `module` in place.

        Raises:
            PassError: the graph is quantised already, nothing can be cut, `only` matches nothing, the amount leaves
                nothing or can't be reached, a weight holds a NaN or an infinity, or the criterion finds nothing to go
                by; with `steps` or `criterion=taylor`, whatever `tune` raises.
        """
        from mopt.passes.prune.channels_run import prune
        from mopt.passes.prune.channels_steps import prune_in_steps

        return prune(module, self, context) if self.steps is None else prune_in_steps(module, self, context)
