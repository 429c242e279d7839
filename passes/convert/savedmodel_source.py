"""`savedmodel(…)`: a TensorFlow SavedModel folder, by one of its signatures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mopt.passes.convert.keras_source import KerasSource
from mopt.passes.convert.worker import convert, need
from mopt.plugin import option, register
from mopt.runtime.contract import Source, SourceResult
from mopt.values import Location, TensorType


@register("savedmodel")
@dataclass(frozen=True)
class SavedModelSource(Source):
    """A TensorFlow SavedModel, converted by tf2onnx."""

    folder: Location = option(help="the folder that holds saved_model.pb")
    inputs: Mapping[str, TensorType] = option(
        factory=dict, help="names, element types and dimensions; default: the signature's own"
    )
    signature: str = option("serving_default", help="the signature to convert")
    outputs: tuple[str, ...] = option((), help="names of the outputs, in the order of their own names")
    sizes: Mapping[str, int] = option(factory=dict, help="sizes to try dynamic dimensions at, where the model is picky")
    opset: int = option(18, help="ONNX opset to convert to", minimum=13, maximum=18)

    tools: ClassVar[tuple[str, ...]] = KerasSource.tools

    def load(self, scratch: Path, seed: int) -> SourceResult:
        """Convert the model in a process of its own and compare the graph with TensorFlow.

        Raises:
            SourceError: it can't be loaded or converted, or the graph disagrees with TensorFlow.
        """
        need("tensorflow", "tensorflow", "tf2onnx")
        return convert("mopt.passes.convert.savedmodel_convert:convert_savedmodel", self, scratch, seed)
