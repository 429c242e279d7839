"""`convert.bind`: a model for fixed sizes of its dynamic dimensions, and fixed values of inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register

if TYPE_CHECKING:
    from mopt.ir import Module


@register("convert.bind")
@dataclass(frozen=True)
class Bind(Pass):
    """Fix dynamic dimensions at one size, and inputs at one value, so that what depends on them can be folded.

    What a graph decides from a size or a value (`If` on a rank, on a sampling rate) is then a constant that
    `simplify.rules` folds. An input with a fixed value stays in the interface, and nothing reads it. The model is
    right for these sizes and values alone, so its outputs are not compared at others.
    """

    sizes: Mapping[str, int] = option(factory=dict, help="sizes of dynamic dimensions: `{W: 320}`")
    values: Mapping[str, float] = option(factory=dict, help="values of inputs, all elements alike: `{sr: 16000}`")

    source: ClassVar[str] = "partial evaluation: Jones, Gomard, Sestoft 1993"
    specialises: ClassVar[bool] = True
    incomparable: ClassVar[str] = "the model is right for fewer sizes or values than before"

    def run(self, module: Module, context: Context) -> PassResult:
        """Bind in place. Names that the model lacks are another model's.

        Raises:
            PassError: a size is not positive, or a value can't be one of its input.
        """
        from mopt.passes.convert.bind_run import bind

        del context
        return bind(module, self.sizes, self.values)
