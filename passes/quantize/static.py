"""`quantize.static`: weights and activations in 8 bits, ranges from calibration, explicit QDQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register
from mopt.values import DataRef, Globs, Ratio

if TYPE_CHECKING:
    from mopt.ir import Module


@register("quantize.static")
@dataclass(frozen=True)
class Static(Pass):
    """Quantise weights and activations to 8 bits, each activation on a grid fixed by calibration.

    The graph stays in standard operators: `QuantizeLinear` and `DequantizeLinear` around what onnxruntime's CPU
    provider then runs on bytes. Convolutions and products with constant weights are quantised; elementwise
    operators, pools and concatenations between them where that saves time; results of `MatMul` and of a last `Gemm`
    stay float. Weights are symmetric int8 in the file, biases int32. A hard swish runs on bytes, its argument's
    grid starting at -3; a constant added behind a unit becomes another zero point. Recurrent layers, transposed
    convolutions and embeddings keep int8 weights and run in float. The start of a network stays float as far as that
    costs no time. Run `simplify()` before: it makes hard swishes and folds batch normalisation.
    """

    data: DataRef = option(help="calibration samples, other ones than those the result is judged on")
    method: Literal["minmax", "percentile", "entropy", "mse"] = option(
        "mse", help="how an activation's range follows from its histogram"
    )
    percentile: float = option(
        99.99, help="share in percent of an activation's elements that `percentile` keeps", minimum=50, maximum=100
    )
    activations: Literal["uint8", "int8", "uint16", "int16"] = option(
        "uint8",
        help="storage of activations; onnxruntime on x86 leaves more of an `int8` graph in float, and runs all of a "
        "16-bit one there",
    )
    symmetric: bool = option(
        False, help="activations' grids are symmetric about zero; onnxruntime then folds no activation function"
    )
    per_channel: bool = option(True, help="a weight scale for each output channel, not each tensor")
    bias_correction: bool = option(True, help="take the mean error of rounded weights off biases")
    activation_correction: bool = option(
        False, help="take the mean error of rounded activations off biases, too: one more run over the samples"
    )
    equalize: bool = option(
        False,
        help="even out channels' ranges between convolutions; their weights absorb it (cross-layer equalisation)",
    )
    smooth: bool = option(
        False,
        help="move outlier channels from normalisations, gains and activation functions into products' weights "
        "(SmoothQuant)",
    )
    rounding: Literal["nearest", "gptq"] = option(
        "nearest", help="each weight to its nearest step, or so that the layers' results err least on the samples"
    )
    keep: Globs = option((), help="source layers (or node names) left in float")
    budget: Ratio = option(
        Ratio(0.0),
        help="share of the time that bytes save which a sensitivity analysis may give back for accuracy",
        minimum=0,
        maximum=1,
    )
    sensitive: Literal["float", "uint16", "int16"] = option(
        "float", help="what becomes of the units within `budget`; 16 bits are for targets that have kernels for them"
    )
    placement: Literal["onnxruntime", "tensorrt"] = option(
        "onnxruntime",
        help="whose fusions decide what is quantised; `tensorrt` implies symmetric int8 activations and float biases",
    )
    recurrent: Literal["dequantized", "integer"] = option(
        "dequantized",
        help="how LSTMs take their int8 weights: read back to float, or by onnxruntime's own DynamicQuantizeLSTM",
    )
    batch: int = option(1, help="samples in one calibration run, where their shapes allow it", minimum=1)

    version: ClassVar[int] = 6
    source: ClassVar[str] = (
        "Jacob et al. 2018 (arXiv:1712.05877); Migacz 2017, 8-bit Inference with TensorRT (entropy); "
        "Nagel et al. 2019, Data-Free Quantization (arXiv:1906.04721; bias correction, equalisation); "
        "Xiao et al. 2022, SmoothQuant (arXiv:2211.10438); Frantar et al. 2022, GPTQ (arXiv:2210.17323)"
    )
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "onnxruntime")
    needs_float: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True

    def run(self, module: Module, context: Context) -> PassResult:
        """Calibrate and quantise.

        Raises:
            PassError: it is quantised already, there is no calibration sample, a weight or an activation holds a
                NaN or an infinity (with the node), or `keep` matches nothing.
        """
        from mopt.passes.quantize.static_run import quantize

        return quantize(module, self, context)
