"""`prune.nm`: of every M weights along the summed axis at most N stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mopt.passes.contract import Context, PassResult, Sparsity
from mopt.passes.prune.gradual import Gradual
from mopt.plugin import option, register
from mopt.values import Globs, NofM

if TYPE_CHECKING:
    from mopt.ir import Module


@register("prune.nm")
@dataclass(frozen=True)
class NM(Gradual):
    """Keep the N largest of every M consecutive weights along the axis that a product sums over.

    That axis is what sparse kernels want (TensorRT, cuSPARSELt): the input channels of a `Conv`, for each output
    channel and each position of the kernel; K of a `Gemm` or `MatMul`, for each output. Among equals the earlier
    element goes first. Weights whose axis M does not divide, or which no such kernel reads (transposed convolutions,
    recurrent layers), are left alone and named in a note. With `steps`, each step zeroes a share of what the pattern
    takes from each weight, smallest first, and trains; the last step completes the pattern.
    """

    pattern: NofM = option(NofM(2, 4), help="how many of how many neighbours stay")
    only: Globs = option((), help="source layers or weight names to prune; none means all")
    skip: Globs = option((), help="source layers or weight names to leave alone")

    source: ClassVar[str] = "Mishra et al. 2021, Accelerating Sparse Deep Neural Networks (arXiv:2104.08378)"
    gives: ClassVar[tuple[str, ...]] = ("sparsity",)
    # A zero may be one value more than a weight was promised to have.
    breaks: ClassVar[tuple[str, ...]] = ("clusters",)
    needs_float: ClassVar[bool] = True
    needs_dense: ClassVar[bool] = True

    def run(self, module: Module, context: Context) -> PassResult:
        """Prune `module` in place.

        Raises:
            PassError: the graph is quantised already, the pattern keeps nothing or everything, nothing can be pruned,
                `only` matches nothing, or a weight holds a NaN or an infinity; with `steps`, whatever `tune` raises.
        """
        from mopt.passes.prune.nm_run import prune

        if self.steps is None:
            return prune(module, self)
        from mopt.passes.prune.gradual_run import gradually

        def reach(current: Module, share: float, _: Context) -> PassResult:
            return prune(current, self, share)

        return gradually(module, self, context, reach, self.promises)

    def promises(self, before: Module, after: Module) -> tuple[Sparsity, ...]:
        """Promise, for every weight that was in scope, the share of zeros it has now."""
        from mopt.passes.prune.nm_run import sparsity

        return sparsity(before, after, self)
