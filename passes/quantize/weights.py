"""`quantize.weights`: weights in 4 or 8 bits, a scale for each block of them; activations stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register
from mopt.values import DataRef, Globs

if TYPE_CHECKING:
    from mopt.ir import Module

Operator = Literal["MatMul", "Gemm", "Gather", "Conv", "LSTM", "GRU"]


@register("quantize.weights")
@dataclass(frozen=True)
class Weights(Pass):
    """Store weights as 4- or 8-bit integers with a scale (and zero point) for every block along the summed axis.

    `form=nbits` writes onnxruntime's own operators, which compute on packed weights: `MatMulNBits` for `MatMul` and
    `Gemm`, `GatherBlockQuantized` for embeddings. `form=blocks` writes the standard's block-wise `DequantizeLinear`
    before every operator (opset 21, raised where needed), which other runtimes read; embeddings stay in float there.
    Convolutions and recurrent layers always take the second form; onnxruntime then restores their weights in each run.
    Zeros stay exactly zero. Weights are rounded to the nearest level; with `data`, those of products whose input the
    main graph computes are rounded so that errors make up for each other on that data (GPTQ, Frantar et al. 2023).
    """

    bits: int = option(4, help="bits of a weight: 4 or 8", minimum=4, maximum=8)
    block: int = option(32, help="weights that share a scale: 16, 32, 64, 128 or 256", minimum=16, maximum=256)
    symmetric: bool = option(False, help="zero in the middle of the range: products need no zero points")
    form: Literal["nbits", "blocks"] = option("nbits", help="onnxruntime's operators, or the standard's")
    compute: Literal["i8", "f32"] = option("i8", help="what MatMulNBits multiplies in; i8 rounds activations, too")
    data: DataRef | None = option(None, help="calibration samples: products are rounded GPTQ-style, not to the nearest")
    operators: tuple[Operator, ...] = option(("MatMul", "Gemm", "Gather"), help="operators whose weights are quantised")
    skip: Globs = option((), help="source layers (or node names) left in float")
    min_elements: int = option(4096, help="weights with fewer elements stay in float", minimum=1)

    source: ClassVar[str] = (
        "Dettmers and Zettlemoyer 2023 (arXiv:2212.09720); GPTQ, Frantar et al. 2023 (arXiv:2210.17323)"
    )
    needs_float: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True
    breaks: ClassVar[tuple[str, ...]] = ("clusters",)

    def run(self, module: Module, context: Context) -> PassResult:
        """Quantise `module` in place.

        Raises:
            PassError: bits or block are none of those listed, the graph is quantised already, a weight holds a NaN or
                an infinity, or the model does not run on `data`.
        """
        from mopt.passes.quantize.weights_run import quantize

        return quantize(module, self, context)
