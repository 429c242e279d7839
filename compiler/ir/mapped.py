"""Tensors whose bytes stay in their file: views of a buffer that is mapped, or read once and shared."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import onnx_ir as ir

Buffer: TypeAlias = "bytes | mmap.mmap"

READ_WHOLE = 64 * 1024 * 1024
"""Files up to this many bytes are read at once, which is safe if somebody writes to them; larger ones are mapped."""

_CHUNK = 16 * 1024 * 1024


class Writer(Protocol):
    """What a tensor's bytes can be written to: a file, or a `Sink`."""

    def write(self, data: Any, /) -> object:
        """Take bytes."""


class Sink:
    """Passes what is written to it on to a function, a hash's `update` say."""

    def __init__(self, take: Callable[[Any], object]) -> None:
        self._take = take

    def write(self, data: Any, /) -> None:
        """Pass bytes on."""
        self._take(data)


def open_buffer(path: Path) -> Buffer:
    """Read a small file, or map a large one (the mapping outlives a file that is replaced).

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        if size <= READ_WHOLE:
            return file.read()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def packed_bytes(dtype: ir.DataType, elements: int) -> int:
    """Return the bytes that elements take in `raw_data`, packed where one is smaller than a byte."""
    return -(-elements * dtype.bitwidth // 8)


def view_tensor(buffer: Buffer, offset: int, length: int | None, like: ir.ExternalTensor) -> ir.TensorProtocol:
    """Return a tensor over part of a buffer, with the type, shape and names of `like`. Nothing is copied.

    Args:
        buffer: what holds the bytes.
        offset: where they start.
        length: how many the file says there are; None to trust type and shape.
        like: the description.

    Raises:
        ValueError: the bytes are too few, too many, or outside the buffer.
    """
    dims = like.shape.numpy()
    count = int(np.prod(dims, dtype=np.int64))
    needed = packed_bytes(like.dtype, count)
    if length is not None and length != needed:
        raise ValueError(f"{like.dtype}{list(dims)} takes {needed} bytes, the file gives {length}")
    if offset + needed > len(buffer):
        raise ValueError(f"bytes {offset} to {offset + needed} are needed, the file has only {len(buffer)}")
    described: dict[str, Any] = {
        "shape": ir.Shape(dims),
        "name": like.name,
        "doc_string": like.doc_string,
        "metadata_props": dict(like.metadata_props) or None,
    }
    if like.dtype.bitwidth < 8:
        packed = np.frombuffer(buffer, dtype=np.uint8, count=needed, offset=offset)
        return ir.PackedTensor(packed, like.dtype, **described)
    kind = np.dtype(like.dtype.numpy())
    if count == 0:
        return ir.Tensor(np.empty(dims, dtype=kind), dtype=like.dtype, **described)
    array = np.frombuffer(buffer, dtype=kind.newbyteorder("<"), count=count, offset=offset)
    return ir.Tensor(array.reshape(dims), dtype=like.dtype, **described)


def write_tensor(tensor: ir.TensorProtocol, file: Writer) -> int:
    """Write a tensor's bytes as `raw_data` holds them, in pieces, and return how many."""
    raw = getattr(tensor, "raw", None)
    if isinstance(raw, np.ndarray) and raw.flags.c_contiguous and raw.dtype.byteorder != ">" and raw.size:
        plain = tensor.dtype.bitwidth >= 8 or isinstance(tensor, ir.PackedTensor)
        if plain:
            flat = raw.reshape(-1).view(np.uint8).data
            for start in range(0, len(flat), _CHUNK):
                file.write(flat[start : start + _CHUNK])
            return len(flat)
    body = tensor.tobytes()
    file.write(body)
    return len(body)


def let_go(tensors: Iterable[ir.TensorProtocol]) -> None:
    """Give the memory of mapped tensors back to the system; they are read from their files again when used.

    Pages of a mapped file stay resident after they were read, and count as this process's memory.
    """
    if not hasattr(mmap, "MADV_DONTNEED"):
        return
    seen: set[int] = set()
    for tensor in tensors:
        mapping = _mapping(tensor)
        if mapping is not None and id(mapping) not in seen and not mapping.closed:
            seen.add(id(mapping))
            mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(tensor: ir.TensorProtocol) -> mmap.mmap | None:
    """Return the mapping under a tensor: onnx_ir's own, or that of the array it views."""
    raw = getattr(tensor, "raw", None)
    if isinstance(raw, mmap.mmap):
        return raw
    base: Any = raw if isinstance(raw, np.ndarray) else None
    while isinstance(base, (np.ndarray, memoryview)):
        base = base.base if isinstance(base, np.ndarray) else base.obj
    return base if isinstance(base, mmap.mmap) else None
