"""`prune.heads`: take whole attention heads out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register
from mopt.values import DataRef, Globs, Ratio

if TYPE_CHECKING:
    from mopt.ir import Module


@register("prune.heads")
@dataclass(frozen=True)
class Heads(Pass):
    """Cut the least important attention heads: queries, keys, values and what the output projection makes of them.

    A head is an index of the axis that attention scores are batched by. Its importance is that of all the rows and
    columns it owns in the four projections. Every layer keeps at least one head; other channels stay.
    """

    amount: Ratio = option(help="share of the heads to take away", minimum=0, maximum=1)
    criterion: Literal["l1", "l2", "fpgm", "random"] = option(
        "l1", help="importance: norm of a head's weights, distance from the layer's other heads, chance"
    )
    scope: Literal["local", "global"] = option(
        "local", help="the same share of every layer, or the least important heads of all layers together"
    )
    only: Globs = option((), help="source layers (of queries, keys or values) whose heads to cut; none means all")
    skip: Globs = option((), help="source layers whose heads to leave alone")
    data: DataRef | None = option(None, help="calibration samples, to make up for what was cut; without, nothing is")
    correct: Literal["bias", "reconstruct"] = option(
        "reconstruct", help="what `data` is used for, as in `prune.channels`"
    )

    source: ClassVar[str] = "Michel et al. 2019, Are Sixteen Heads Really Better than One? (arXiv:1905.10650)"
    tools: ClassVar[tuple[str, ...]] = ("onnxruntime-gpu", "onnxruntime")
    breaks: ClassVar[tuple[str, ...]] = ("sparsity", "clusters")
    needs_float: ClassVar[bool] = True
    needs_dense: ClassVar[bool] = True

    def run(self, module: Module, context: Context) -> PassResult:
        """Prune `module` in place.

        Raises:
            PassError: the graph is quantised already, there are no heads that can be cut, `only` matches nothing,
                the amount leaves nothing, or a weight holds a NaN or an infinity.
        """
        from mopt.passes.prune.heads_run import prune

        return prune(module, self, context)
