"""`cluster.expand`: write weights that are stored as codebooks out again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mopt.passes.contract import Context, Note, Pass, PassResult
from mopt.plugin import register

if TYPE_CHECKING:
    from mopt.ir import Module


@register("cluster.expand")
@dataclass(frozen=True)
class Expand(Pass):
    """Make clustered weights dense: for tools and targets that want weights, not look-ups of them.

    The values, and so their clusters and zeros, stay what they are; the file takes the float model's size again.
    Quantisers need no such step: they write weights out, and pack them again, by themselves.
    """

    unpacks: ClassVar[bool] = True
    equivalence: ClassVar[float | None] = 1e-5

    def run(self, module: Module, context: Context) -> PassResult:
        """Expand every codebook of `module`, in place."""
        del context
        from mopt.analysis.codebook_expand import expand

        names = expand(module)
        if not names:
            return PassResult(module, False, (Note("no weight here is stored as a codebook"),))
        return PassResult(module, True, (Note(f"{len(names)} weights written out", nodes=tuple(names)),))
