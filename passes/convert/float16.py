"""`convert.float16`: weights and arithmetic in half precision, what is sensitive to range in single precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from mopt.passes.contract import Context, Pass, PassResult
from mopt.plugin import option, register
from mopt.values import Globs

if TYPE_CHECKING:
    from mopt.ir import Module

SENSITIVE: Final[Globs] = (
    # Sums and powers leave half precision's range (65,504) or its 11 bits of precision.
    "CumSum", "Exp", "GlobalLpPool", "Log", "LogSoftmax", "LpNormalization", "LpPool", "LRN", "Pow", "Reciprocal",
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceProd", "ReduceSum",
    "ReduceSumSquare", "Softmax", "Softplus", "Sqrt",
    # Statistics over whole channels; `LayerNormalization` is not here: it keeps its own in float32 (`stash_type`).
    "GroupNormalization", "InstanceNormalization", "MeanVarianceNormalization",
    # Spectra and their windows; functions with poles.
    "Acos", "Acosh", "Asin", "Atanh", "BlackmanWindow", "Cosh", "DFT", "HammingWindow", "HannWindow",
    "MelWeightMatrix", "STFT", "Sinh", "Tan",
    # Coordinates and random numbers.
    "AffineGrid", "GridSample", "MaxRoiPool", "Range", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "RoiAlign",
)  # fmt: skip
"""Operators kept in float32 by default: the list of PyTorch's automatic mixed precision, in ONNX's words."""


@register("convert.float16")
@dataclass(frozen=True)
class Float16(Pass):
    """Store and compute in float16, with casts only where the two precisions meet.

    Needs no calibration. Kept in float32, besides `keep` and `skip`: operators that have no float16 form, constants
    beyond float16's range and whatever receives values of that size, constants too small for it, and conversions
    from wide integers. A run of cheap operators between two kept ones stays in float32 too.
    """

    interface: Literal["float32", "float16"] = option(
        "float32", help="element type of the model's floating-point inputs and outputs"
    )
    keep: Globs = option(SENSITIVE, help="operator types kept in float32")
    skip: Globs = option((), help="source layers (or node names) kept in float32")

    scales: bool = option(
        False,
        help="quantised graphs: scales in float16, for TensorRT (onnxruntime 1.31's optimiser misreads such graphs)",
    )

    source: ClassVar[str] = "Micikevicius et al. 2018, Mixed Precision Training (arXiv:1710.03740)"
    dtypes_may_change: ClassVar[bool] = True

    def run(self, module: Module, context: Context) -> PassResult:
        """Convert `module` in place; nothing changes where it has no float32 arithmetic."""
        from mopt.passes.convert.half_run import convert
        from mopt.passes.convert.half_types import FLOAT16

        half = self.interface == "float16"
        return convert(module, context, FLOAT16, self.keep, self.skip, half_interface=half, scales=self.scales)
