"""`quantize.aware`: training with the rounding of weights and activations in the loop, 2 to 8 bits, explicit QDQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.contract import Context, PassResult
from mopt.passes.tune.options import TrainingPass
from mopt.plugin import option, register
from mopt.values import Globs, ModelRef

if TYPE_CHECKING:
    from mopt.ir import Module


@register("quantize.aware")
@dataclass(frozen=True)
class Aware(TrainingPass):
    """Train the network with its weights and activations on grids of few bits, and emit it on these grids.

    Starts from what `quantize.static` would emit: its placement, its ranges (calibrated on the first `samples` of
    `data`), the float weights. Batch normalisation is folded before. What comes out is the same graph of
    `QuantizeLinear` and `DequantizeLinear`, with trained weights and grids; below 8 bits its integers are kept within
    the narrower grid. Without labels, `teacher=parent` trains it on the outputs of the network that it was.
    """

    method: Literal["lsq", "pact", "minmax"] = option(
        "lsq",
        help="what grids follow: `lsq` learns the steps of weights and activations, `pact` where activations are "
        "clipped, `minmax` follows what the values reach",
    )
    weights: int = option(8, help="bits of weights", minimum=2, maximum=8)
    activations: int = option(
        8, help="bits of the activations that weighted layers read; others stay in 8", minimum=2, maximum=8
    )
    edges: int = option(8, help="least bits in the first and the last weighted layer", minimum=2, maximum=8)
    per_channel: bool = option(True, help="a weight scale for each output channel, not each tensor")
    teacher: ModelRef | None = option(
        None, help="model or pipeline whose outputs to train on; `parent`: what this pipeline starts from"
    )
    match: Literal["kl", "mse"] = option(
        "kl", help="how outputs are compared with the teacher's: as distributions over the last axis, or as numbers"
    )
    temperature: float = option(1.0, help="what logits are divided by before `kl` compares them", minimum=0.01)
    alpha: float = option(
        1.0,
        help="weight of the teacher's part of the objective; `loss`, where given, has the rest",
        minimum=0,
        maximum=1,
    )
    calibration: Literal["minmax", "percentile", "entropy", "mse"] = option(
        "mse", help="how activations' first ranges follow from their histograms"
    )
    samples: int = option(64, help="samples of `data` for the first ranges", minimum=1)
    momentum_of_ranges: float = option(
        0.99, help="`minmax`: how slowly activations' ranges follow the batches", minimum=0, maximum=1
    )
    freeze_ranges: float = option(
        0.75, help="`minmax`: the share of the steps after which ranges no longer move", minimum=0, maximum=1
    )
    clip_decay: float = option(0.0, help="`pact`: L2 penalty of the clipping levels", minimum=0)
    storage: Literal["int8", "int4"] = option(
        "int8",
        help="`int4`: weights of 4 bits or fewer take half a byte (opset 21); onnxruntime runs their layers in float",
    )
    equalize: bool = option(
        False, help="first even out the ranges of channels across neighbouring layers, as `quantize.static` does"
    )
    keep: Globs = option((), help="source layers (or node names) left in float")
    placement: Literal["onnxruntime", "tensorrt"] = option(
        "onnxruntime", help="whose fusions decide what is quantised; `tensorrt` implies symmetric int8 activations"
    )

    version: ClassVar[int] = 1
    source: ClassVar[str] = (
        "LSQ: Esser et al. 2020 (arXiv:1902.08153); PACT: Choi et al. 2018 (arXiv:1805.06085); "
        "fake quantisation with observed ranges: Jacob et al. 2018 (arXiv:1712.05877)"
    )
    tools: ClassVar[tuple[str, ...]] = (
        "torch", "accelerate", "numpy", "onnx-ir", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime",
    )  # fmt: skip
    stands_on: ClassVar[tuple[str, ...]] = (
        *TrainingPass.stands_on, "passes.convert", "passes.simplify", "rewrite",
    )  # fmt: skip
    needs_float: ClassVar[bool] = True
    needs_dense: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True
    breaks: ClassVar[tuple[str, ...]] = ("clusters",)

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: saying which.
        """
        super().__post_init__()
        if self.loss is None and self.teacher is None:
            raise ValueError("there is nothing to train for: give a `loss` over targets, or `teacher=parent`")
        if self.storage == "int4" and self.weights > 4:
            raise ValueError(f"`storage=int4` holds 4 bits, and `weights` is {self.weights}")

    def run(self, module: Module, context: Context) -> PassResult:
        """Quantise `module` and train it.

        Raises:
            PassError: it is quantised already, or has nothing to quantise, or operators that can't be trained; the
                teacher has other inputs or outputs; a weight or an activation holds NaN or an infinity; the loss is no
                number; PyTorch or Accelerate is not installed.
            DataError: data, model and loss do not fit.
        """
        from mopt.passes.quantize.aware_run import quantize

        return quantize(module, self, context)
