"""`quantize.dynamic`: weights in 8 bits, activations quantised as they come, products in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register
from mopt.values import Globs

if TYPE_CHECKING:
    from mopt.ir import Module

Operator = Literal["MatMul", "Gemm", "Conv", "LSTM", "Gather"]


@register("quantize.dynamic")
@dataclass(frozen=True)
class Dynamic(Pass):
    """Quantise weights to 8 bits now and activations to 8 bits at run time, each tensor by its own range.

    Needs no data. `MatMul` and `Gemm` become `DynamicQuantizeLinear` + `MatMulInteger`, `Conv` becomes
    `ConvInteger`, `LSTM` becomes onnxruntime's `DynamicQuantizeLSTM`; a `Gather` from an embedding reads 8-bit rows
    and scales them. Weights are symmetric: `w ≈ scale × q`, with q in -127…127 (stored from 1 to 255 as `uint8`, which
    convolutions are faster with).
    Left in float: small weights, weights the graph computes (`simplify()` folds many of them), and convolutions
    with groups, which hold few weights and lose most.
    """

    weights: Literal["auto", "uint8", "int8"] = option(
        "auto",
        help="storage of weights; the same values, but onnxruntime multiplies MatMul's faster as int8 and Conv's as "
        "uint8, which `auto` does; int8 may saturate on x86 processors without VNNI",
    )
    per_channel: bool = option(True, help="a scale for each output channel (or row of an embedding), not each tensor")
    operators: tuple[Operator, ...] = option(
        ("MatMul", "Gemm", "Conv", "LSTM", "Gather"), help="operators whose weights are quantised"
    )
    skip: Globs = option((), help="source layers (or node names) left in float")
    min_elements: int = option(1024, help="weights with fewer elements stay in float", minimum=1)

    select: Literal["all", "table", "measured"] = option(
        "all",
        help="which of them: all (the smallest file); those that gain time by a table that is the same everywhere; "
        "or by a measurement on this machine, which the notes record",
    )

    version: ClassVar[int] = 3
    source: ClassVar[str] = "Jacob et al. 2018, Quantization and Training of Neural Networks (arXiv:1712.05877)"
    needs_float: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True

    @property
    def signed(self) -> tuple[Operator, ...]:
        """The operators whose weights are stored as int8."""
        if self.weights == "auto":
            # ConvInteger has no kernel of its own for int8: it took three to four times as long as float.
            return ("MatMul", "Gemm", "LSTM")
        return ("MatMul", "Gemm", "Conv", "LSTM") if self.weights == "int8" else ()

    def run(self, module: Module, context: Context) -> PassResult:
        """Quantise `module` in place.

        Raises:
            PassError: it is quantised already, or a weight holds a NaN or an infinity.
        """
        from mopt.passes.quantize.dynamic_run import quantize

        return quantize(module, self, context)
