"""Fingerprints of tensors: equal tensors are told apart from others without reading large ones twice.

Small tensors are hashed whole, large ones by samples; where two sampled prints agree, `same_contents` compares the
bytes themselves, in pieces, so that no second copy of a large weight is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHOLE = 1 << 20
"""Tensors up to this many bytes are hashed whole."""

_PIECE = 1 << 24
_SAMPLES, _SAMPLE = 64, 4096

Print = tuple[str, tuple[int, ...], bytes]
"""Element type, shape and digest of a tensor."""


def dims(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    """Return a tensor's shape as plain integers."""
    return tuple(int(dim) for dim in tensor.shape)  # type: ignore[arg-type]


class Prints:
    """Fingerprints, each computed once. Holds the tensors, so that their ids stay theirs."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[ir.TensorProtocol, Print]] = {}

    def of(self, tensor: ir.TensorProtocol) -> Print:
        """Return a tensor's fingerprint; unequal ones mean unequal tensors."""
        known = self._known.get(id(tensor))
        if known is None:
            known = (tensor, (tensor.dtype.name, dims(tensor), _digest(tensor)))
            self._known[id(tensor)] = known
        return known[1]

    def same(self, a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
        """Tell whether two tensors have one element type, shape and contents, bit by bit."""
        if a is b or _same_place(a, b):
            return True
        if self.of(a) != self.of(b):
            return False
        return a.dtype == ir.DataType.STRING or a.nbytes <= WHOLE or same_contents(a, b)


def same_contents(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    """Compare the bytes of two tensors of one shape and element type, piece by piece."""
    return all(np.array_equal(x, y) for x, y in zip(_pieces(a), _pieces(b), strict=True))


def _same_place(a: ir.TensorProtocol, b: ir.TensorProtocol) -> bool:
    """Tell whether two tensors are mapped from one place of one file (snapshots share theirs)."""
    if not (isinstance(a, ir.ExternalTensor) and isinstance(b, ir.ExternalTensor)):
        return False
    return (a.path, a.offset, a.length, a.dtype, dims(a)) == (b.path, b.offset, b.length, b.dtype, dims(b))


def _raw(tensor: ir.TensorProtocol) -> NDArray[np.uint8]:
    if isinstance(tensor, ir.PackedTensor):
        return np.frombuffer(tensor.tobytes(), dtype=np.uint8)
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


def _pieces(tensor: ir.TensorProtocol) -> Iterator[Any]:
    raw = _raw(tensor)
    for start in range(0, max(1, raw.size), _PIECE):
        yield raw[start : start + _PIECE]


def _digest(tensor: ir.TensorProtocol) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    if tensor.dtype == ir.DataType.STRING:
        for text in np.asarray(tensor.numpy(), dtype=object).reshape(-1):
            data = text if isinstance(text, bytes) else str(text).encode()
            hasher.update(len(data).to_bytes(8, "little") + data)
        return hasher.digest()
    raw = _raw(tensor)
    if raw.size <= WHOLE:
        hasher.update(raw.data)
        return hasher.digest()
    for start in np.linspace(0, raw.size - _SAMPLE, _SAMPLES).astype(np.int64):
        hasher.update(np.ascontiguousarray(raw[start : start + _SAMPLE]).data)
    return hasher.digest()
