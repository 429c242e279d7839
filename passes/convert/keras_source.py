"""`keras(…)`: Keras models, from a `.keras` or `.h5` file, or a factory in a Python file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mopt.passes.convert.worker import convert, need
from mopt.plugin import option, register
from mopt.runtime.contract import Source, SourceResult, TargetError
from mopt.values import Location, PythonRef, TensorType

if TYPE_CHECKING:
    from mopt.runtime.contract import Runner


@register("keras")
@dataclass(frozen=True)
class KerasSource(Source):
    """A Keras model (files of Keras 2 included), converted by tf2onnx."""

    model: PythonRef | Location = option(help='a .keras, .h5 or .hdf5 file, or `"file.py:factory"`')
    inputs: Mapping[str, TensorType] = option(
        factory=dict, help="names, element types and dimensions; default: the model's own"
    )
    weights: Location | None = option(None, help="weights for the factory's model: .weights.h5, .h5 or .keras")
    args: Mapping[str, object] = option(factory=dict, help="keyword arguments of the factory")
    outputs: tuple[str, ...] = option((), help="names of the outputs, in order")
    sizes: Mapping[str, int] = option(factory=dict, help="sizes to try dynamic dimensions at, where the model is picky")
    opset: int = option(18, help="ONNX opset to convert to", minimum=13, maximum=18)

    tools: ClassVar[tuple[str, ...]] = (
        "tensorflow-cpu", "tensorflow", "keras", "tf2onnx",
        "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "onnxruntime",
    )  # fmt: skip

    def load(self, scratch: Path, seed: int) -> SourceResult:
        """Convert the model in a process of its own and compare the graph with Keras.

        Raises:
            SourceError: it can't be loaded or converted, or the graph disagrees with Keras.
        """
        need("tensorflow", "tensorflow", "keras", "tf2onnx")
        return convert("mopt.passes.convert.keras_convert:convert_keras", self, scratch, seed)

    def eager(self, threads: int = 1, *, gpu: bool = False) -> Runner:
        """Load the model and call it as Keras does, eagerly.

        Raises:
            SourceError: it can't be loaded.
            TargetError: it is to run on a GPU, which is not supported.
        """
        need("tensorflow", "tensorflow", "keras")
        if gpu:
            raise TargetError("Keras models are run on the CPU alone", missing=True, help="use `--provider cpu`")
        from mopt.passes.convert.keras_eager import KerasEager

        return KerasEager(self, threads)
