"""`onnx(…)`: a model that is an ONNX graph already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mopt.passes.convert.external_data import external_files
from mopt.plugin import option, register
from mopt.runtime.contract import Source, SourceError, SourceResult
from mopt.values import Location, LocationError, TensorType


@register("onnx")
@dataclass(frozen=True)
class OnnxSource(Source):
    """An ONNX file, with its external data where it has some."""

    file: Location = option(help="the .onnx file")
    inputs: Mapping[str, TensorType] = option(
        factory=dict, help="new names (by position), sizes or names of dimensions; default: the file's own"
    )
    outputs: tuple[str, ...] = option((), help="new names of the outputs, in order")

    tools: ClassVar[tuple[str, ...]] = ("onnx", "onnx-ir")

    def files(self) -> tuple[Path, ...]:
        """Return the files of external data, for the fingerprint."""
        return external_files(self.file.resolve())

    def load(self, scratch: Path, seed: int) -> SourceResult:
        """Load the file, rename and retype its interface, and check that it still computes the same.

        Raises:
            SourceError: it is not there, no valid model, or can't have the interface asked for.
        """
        from mopt.ir import LoadError, load
        from mopt.ir.provenance import stamp_source
        from mopt.passes.convert.interface import rename_outputs
        from mopt.passes.convert.retype import retype

        del scratch
        try:
            module = load(self.file.resolve())
        except (LocationError, LoadError) as error:
            raise SourceError(str(error)) from error
        stamp_source(module)
        notes = list(module.notes)
        if self.inputs:
            module, more = retype(module, self.inputs, f"`{self.file}`", seed)
            notes += more
        if self.outputs:
            rename_outputs(module, self.outputs)
        return SourceResult(module, tuple(notes))
