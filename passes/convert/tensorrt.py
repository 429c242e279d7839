"""`convert.tensorrt`: quantised graphs in the operators and grids that TensorRT takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register

if TYPE_CHECKING:
    from mopt.ir import Module


@register("convert.tensorrt")
@dataclass(frozen=True)
class TensorRT(Pass):
    """Rewrite what another runtime's quantisation left in a graph and TensorRT refuses; a float graph stays as it is.

    TensorRT knows symmetric grids (int8, and int4 weights in blocks) and float biases alone. Asymmetric activations
    get the int8 grid that holds their range, with steps up to twice as wide, and their Q/DQ pairs stay only where
    they feed a convolution or product; int32 biases become float; asymmetric weights int8 where their values fit,
    else float; onnxruntime's 4-bit products block-wise int4 weights; what quantises its activations at run time
    int8 weights with float activations. The `trt` target runs this before it emits.
    """

    kernels: Literal["tensorrt", "tensorrt_rtx"] = option(
        "tensorrt", help="whose int8 convolutions to write for: TensorRT for RTX lacks some that TensorRT has"
    )
    grids: Literal["int8", "e4m3"] = option(
        "int8", help="8-bit grids of convolutions and products as integers, or as floats for SM89 and later"
    )

    version: ClassVar[int] = 2
    source: ClassVar[str] = "NVIDIA TensorRT documentation, Working with Quantized Types: explicit quantization"
    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir", "onnxscript")

    def run(self, module: Module, context: Context) -> PassResult:
        """Lower `module` in place.

        Raises:
            PassError: something quantised has no form that TensorRT takes, with its node, its layer and the step
                that made it.
        """
        from mopt.passes.convert.tensorrt_run import lower

        return lower(module, context, rtx=self.kernels == "tensorrt_rtx", floats=self.grids == "e4m3")
