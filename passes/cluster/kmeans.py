"""`cluster.kmeans`: at most K different values a weight, stored as a codebook and packed indices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Clusters, Context, Pass, PassResult
from mopt.plugin import option, register
from mopt.values import DataRef, Globs

if TYPE_CHECKING:
    from mopt.ir import Module


@register("cluster.kmeans")
@dataclass(frozen=True)
class KMeans(Pass):
    """Share the values of each weight among a few centroids, and store indices instead of floats.

    The file holds a codebook and one index an element (8 bits for up to 256 clusters, 4 for up to 16, 2 for up to 4,
    1 for 2), so that it shrinks about 4×, 8×, 16×, 32×; a runtime looks the weights up once, when it loads the model,
    and runs at the dense model's speed. With `channels=1` each output channel has a codebook of its own, in half
    precision, which few clusters need where channels differ in range. Weights with few elements, or that a codebook
    would not shrink, stay as they are. Run `simplify()` first: a rule that computes with weights (folding a batch
    normalisation, say) can't any more.
    """

    clusters: int = option(256, help="different values a weight may have", minimum=2, maximum=256)
    channels: int = option(
        0, help="output channels that share a codebook: 1 gives each its own; 0: one for the whole weight", minimum=0
    )
    data: DataRef | None = option(
        None, help="calibration samples: errors are weighed by what outputs make of them, and biases corrected"
    )
    keep_zeros: bool = option(
        True, help="one centroid is exactly zero where a weight has zeros: pruned weights stay so"
    )
    only: Globs = option((), help="source layers or weight names to cluster; none means all")
    skip: Globs = option((), help="source layers or weight names to leave alone")
    include: tuple[Literal["biases", "norms", "embeddings"], ...] = option(
        (), help="further kinds of weight, beside those of convolutions, matrix products and recurrent layers"
    )
    min_elements: int = option(4096, help="weights with fewer elements stay dense", minimum=1)

    source: ClassVar[str] = "Han et al. 2016, Deep Compression (arXiv:1510.00149)"
    version: ClassVar[int] = 2
    needs_float: ClassVar[bool] = True
    packs: ClassVar[bool] = True
    gives: ClassVar[tuple[str, ...]] = ("clusters",)

    def run(self, module: Module, context: Context) -> PassResult:
        """Cluster `module` in place.

        Raises:
            PassError: the graph is quantised already, no weight can be clustered, `only` matches nothing, a weight
                holds a NaN or an infinity, or the model does not run on `data`.
        """
        from mopt.passes.cluster.kmeans_run import cluster

        return cluster(module, self, context)

    def promises(self, before: Module, after: Module) -> tuple[Clusters, ...]:
        """Promise, for every weight that was clustered, the number of different values it has now."""
        from mopt.passes.cluster.kmeans_run import promise

        return promise(before, after)
