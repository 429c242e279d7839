"""`torch(…)`: PyTorch models, from a factory in a Python file, a TorchScript file, or an exported program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mopt.passes.convert.worker import convert, need
from mopt.plugin import option, register
from mopt.runtime.contract import Source, SourceResult
from mopt.values import Globs, Location, PythonRef, TensorType

if TYPE_CHECKING:
    from mopt.runtime.contract import Runner


@register("torch")
@dataclass(frozen=True)
class TorchSource(Source):
    """A PyTorch model, exported by whichever of PyTorch's two exporters gives a correct, truly dynamic graph."""

    model: PythonRef | Location = option(
        help='`"file.py:Factory"` that returns the module, a TorchScript file, or an exported program (.pt2)'
    )
    inputs: Mapping[str, TensorType] = option(
        factory=dict, help="names, element types and dimensions of the inputs; a dimension that is a name is dynamic"
    )
    weights: Location | None = option(None, help="state dict for the factory's module: .safetensors, .pt, .pth")
    args: Mapping[str, object] = option(factory=dict, help="keyword arguments of the factory")
    outputs: tuple[str, ...] = option((), help="names of the outputs, in order")
    part: str = option("", help="convert this submodule only, by its path (`encoder.layer1`)")
    ignore: Globs = option((), help="keys of the weights file that the module need not have")
    sizes: Mapping[str, int] = option(
        factory=dict, help="sizes to trace dynamic dimensions at, where the model is picky"
    )
    exporter: Literal["auto", "dynamo", "torchscript"] = option("auto", help="the exporter; auto tries both")
    opset: int = option(18, help="ONNX opset to export to", minimum=13, maximum=23)

    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "onnxruntime")

    def load(self, scratch: Path, seed: int) -> SourceResult:
        """Export the model in a process of its own and compare the graph with PyTorch.

        Raises:
            SourceError: it can't be loaded or exported, or both exporters' graphs disagree with PyTorch.
        """
        need("torch", "torch")
        return convert("mopt.passes.convert.torch_convert:convert_torch", self, scratch, seed)

    def eager(self, threads: int = 1, *, gpu: bool = False) -> Runner:
        """Load the model and call it as PyTorch does, without gradients; on a GPU in float16.

        Raises:
            SourceError: it can't be loaded.
            TargetError: PyTorch can't use a GPU here.
        """
        need("torch", "torch")
        from mopt.passes.convert.torch_eager import TorchEager

        return TorchEager(self, threads, gpu=gpu)
