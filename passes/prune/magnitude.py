"""`prune.magnitude`: set the smallest weights to zero, one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, PassResult, Sparsity
from mopt.passes.prune.gradual import Gradual
from mopt.plugin import option, register
from mopt.values import Globs, Ratio

if TYPE_CHECKING:
    from mopt.ir import Module


@register("prune.magnitude")
@dataclass(frozen=True)
class Magnitude(Gradual):
    """Zero the weights of smallest magnitude (unstructured), at once or in steps with training in between.

    Exactly `ceil(amount × n)` of the `n` elements in scope are zero afterwards, those that were zero before
    included; among equals the earlier weight, and in it the earlier element, goes first. Neither the file nor the
    time shrinks by itself: compressed size does, and later passes keep the zeros. With `steps`, each step zeroes what
    is smallest by then, and zeros stay zero while the others train.
    """

    amount: Ratio = option(help="share of the elements to be zero", minimum=0, maximum=1)
    scope: Literal["global", "local"] = option(
        "global", help="rank all weights together, or reach the amount in each weight"
    )
    only: Globs = option((), help="source layers or weight names to prune; none means all")
    skip: Globs = option((), help="source layers or weight names to leave alone")
    include: tuple[Literal["biases", "norms", "embeddings"], ...] = option(
        (), help="further kinds of weight to prune, beside those of convolutions, matrix products and recurrent layers"
    )

    source: ClassVar[str] = (
        "Han et al. 2015, Learning both Weights and Connections (arXiv:1506.02626); "
        "steps: Zhu & Gupta 2017 (arXiv:1710.01878)"
    )
    gives: ClassVar[tuple[str, ...]] = ("sparsity",)
    # A zero may be one value more than a weight was promised to have.
    breaks: ClassVar[tuple[str, ...]] = ("clusters",)
    needs_float: ClassVar[bool] = True
    needs_dense: ClassVar[bool] = True

    def run(self, module: Module, context: Context) -> PassResult:
        """Prune `module` in place.

        Raises:
            PassError: the graph is quantised already, nothing can be pruned, `only` matches nothing, or a weight holds
                a NaN or an infinity; with `steps`, whatever `tune` raises.
        """
        from mopt.passes.prune.magnitude_run import prune

        if self.steps is None:
            return prune(module, self, self.amount)
        from mopt.passes.prune.gradual_run import gradually

        def reach(current: Module, share: float, _: Context) -> PassResult:
            return prune(current, self, share * self.amount)

        return gradually(module, self, context, reach, self.promises)

    def promises(self, before: Module, after: Module) -> tuple[Sparsity, ...]:
        """Promise, for every weight that was in scope, the share of zeros it has now."""
        from mopt.passes.prune.magnitude_run import sparsity

        return sparsity(before, after, self)
