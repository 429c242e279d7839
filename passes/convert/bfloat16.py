"""`convert.bfloat16`: weights and arithmetic in bfloat16, what is sensitive to rounding in single precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, Pass, PassResult
from mopt.passes.convert.float16 import SENSITIVE
from mopt.plugin import option, register
from mopt.values import Globs

if TYPE_CHECKING:
    from mopt.ir import Module


@register("convert.bfloat16")
@dataclass(frozen=True)
class Bfloat16(Pass):
    """Store and compute in bfloat16, with casts only where the two precisions meet.

    bfloat16 has float32's range with 8 bits of precision: nothing overflows, and values are rounded eight times as
    coarsely as in float16. The module is brought to opset 22, the first whose convolutions take it. onnxruntime has
    few kernels for it on a CPU, so outputs are not compared; it is made for engines and GPUs.
    """

    interface: Literal["float32", "bfloat16"] = option(
        "float32", help="element type of the model's floating-point inputs and outputs"
    )
    keep: Globs = option(SENSITIVE, help="operator types kept in float32")
    skip: Globs = option((), help="source layers (or node names) kept in float32")
    scales: bool = option(False, help="quantised graphs: scales in bfloat16, for TensorRT")

    source: ClassVar[str] = "Kalamkar et al. 2019, A Study of BFLOAT16 for Deep Learning Training (arXiv:1905.12322)"
    dtypes_may_change: ClassVar[bool] = True
    incomparable: ClassVar[str] = "onnxruntime has no bfloat16 kernels on a CPU"

    def run(self, module: Module, context: Context) -> PassResult:
        """Convert `module` in place; nothing changes where it has no float32 arithmetic.

        Raises:
            PassError: it can't be brought to opset 22.
        """
        from mopt.passes.convert.half_run import convert
        from mopt.passes.convert.half_types import BFLOAT16

        half = self.interface == "bfloat16"
        return convert(module, context, BFLOAT16, self.keep, self.skip, half_interface=half, scales=self.scales)
