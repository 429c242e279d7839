"""The two 16-bit floating-point types a graph can compute in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


@dataclass(frozen=True)
class HalfType:
    """A 16-bit type.

    Attributes:
        name: in a reader's words.
        dtype: the element type; `numpy` is its array type.
        largest: its largest finite value.
        wide: it has float32's range, so that only precision is lost.
    """

    name: str
    dtype: ir.DataType
    numpy: Any
    largest: float
    wide: bool

    @property
    def by(self) -> str:
        """The pass that converts to it, as provenance names it."""
        return f"convert.{self.name}"

    def cast(self, array: NDArray[Any]) -> NDArray[Any]:
        """Round an array to this type; finite values beyond its range become its ends."""
        bounded = np.where(np.isfinite(array), np.clip(array, -self.largest, self.largest), array)
        result: NDArray[Any] = bounded.astype(self.numpy)
        return result


FLOAT16: Final = HalfType("float16", ir.DataType.FLOAT16, np.float16, 65504.0, wide=False)
BFLOAT16: Final = HalfType("bfloat16", ir.DataType.BFLOAT16, ml_dtypes.bfloat16, (2 - 2.0**-7) * 2.0**127, wide=True)
