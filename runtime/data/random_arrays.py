"""Splits of random arrays."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from mopt.runtime.contract import DataError, Split
from mopt.runtime.data.splits import TARGET, Samples
from mopt.runtime.dtypes import numpy_dtype

if TYPE_CHECKING:
    from mopt.runtime.data.sources import RandomData
    from mopt.values import TensorType

_SIZE: Final = 16


def random_splits(source: RandomData, seed: int) -> dict[str, Split]:
    """Draw the splits `train`, `calib` and `test`; reals are standard normal, integers 0 or 1."""
    for name, tensor in source.inputs.items():
        if not tensor.dims:
            raise DataError(f"`{name}: {tensor}` has no batch axis")
    return {
        name: Samples(_Random(source, seed, name), source.samples, f"random.{name}")
        for name in ("train", "calib", "test")
    }


@dataclass(frozen=True)
class _Random:
    source: RandomData
    seed: int
    split: str

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        stream = zlib.crc32(self.split.encode())
        for number in range(self.source.samples):
            rng = np.random.default_rng([self.seed, stream, number])
            sample: dict[str, Any] = {name: self._array(tensor, rng) for name, tensor in self.source.inputs.items()}
            if self.source.classes:
                sample[TARGET] = int(rng.integers(0, self.source.classes))
            yield sample

    def _array(self, tensor: TensorType, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        shape = [dim if isinstance(dim, int) else self.source.bind.get(dim, _SIZE) for dim in tensor.dims[1:]]
        kind = numpy_dtype(tensor.dtype)
        if kind.kind == "f" or tensor.dtype == "bf16":
            return rng.standard_normal(shape, dtype=np.float32).astype(kind)
        if kind.kind == "O":
            return np.full(shape, "text", dtype=object)
        return rng.integers(0, 2, size=shape).astype(kind)
