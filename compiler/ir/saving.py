"""Saving: atomic, streaming (no second copy of the weights), with external data where one file can't hold them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir
from mopt.ir import wire
from mopt.ir.bare import forget_inferable
from mopt.ir.errors import IRError, SaveError
from mopt.ir.mapped import let_go, write_tensor
from mopt.ir.module import Module
from mopt.ir.proto import root_cause
from mopt.ir.provenance import strip_proto
from mopt.ir.skeleton import new_token, skeleton

_STREAMED_FROM = 1024
"""Bytes from which on a tensor is streamed, or goes to the data file."""

_PROTO_LIMIT = 2**31 - 1
"""No protobuf file may be larger."""

_PAGE, _LINE = 4096, 64
"""Alignment of large and of small tensors in a data file, so that runtimes can map them."""


def save(
    module: Module, path: Path | str, *, external_data: bool | None = None, provenance: bool = False
) -> list[Path]:
    """Write a module as an ONNX file. Either all of it is written, or nothing changes.

    Args:
        module: what to save.
        path: the `.onnx` file; its folder must exist.
        external_data: put weights into `<name>.data` beside it; None: only where one file would exceed 2 GB.
        provenance: keep what the compiler knows: where nodes come from, and inferred types and shapes. Without it
            types are written only where they can't be inferred.

    Returns:
        The files written, the model first.

    Raises:
        SaveError: the disk is full, the folder is missing, or the graph can't be written as ONNX.
    """
    file = Path(path)
    token = new_token()
    try:
        proto, tensors = skeleton(module, _STREAMED_FROM, token)
    except (IRError, ir.serde.SerdeError) as error:
        raise SaveError(f"{file} can't be written: {root_cause(error)}") from error
    if not provenance:
        strip_proto(proto)
        forget_inferable(proto)
    lengths = [tensor.nbytes for tensor in tensors]
    body = proto.SerializeToString(deterministic=True)
    parts = wire.splice(body, lengths, token)
    if external_data is None:
        external_data = wire.size_of(parts) > _PROTO_LIMIT
    try:
        if external_data:
            return _save_apart(file, proto, tensors, token)
        with _atomic(file) as (write, commit):
            write(lambda out: _write_parts(out, parts, tensors))
            commit()
    except OSError as error:
        raise SaveError(f"{file} can't be written: {os.strerror(error.errno or 0)}; nothing was changed") from error
    finally:
        let_go(tensors)
    return [file]


def _save_apart(file: Path, proto: onnx.ModelProto, tensors: list[ir.TensorProtocol], token: str) -> list[Path]:
    data = file.with_name(f"{file.name}.data")
    offsets: list[int] = []
    position = 0
    for tensor in tensors:
        step = _PAGE if tensor.nbytes >= _PAGE else _LINE
        position = -(-position // step) * step
        offsets.append(position)
        position += tensor.nbytes
    for entry in _external_entries(proto):
        index = int(entry.external_data[0].value.rpartition(":")[2])
        del entry.external_data[:]
        for key, value in (
            ("location", data.name),
            ("offset", str(offsets[index])),
            ("length", str(tensors[index].nbytes)),
        ):
            entry.external_data.add(key=key, value=value)
    body = proto.SerializeToString(deterministic=True)
    if len(body) > _PROTO_LIMIT:
        raise SaveError(f"{file} can't be written: the graph alone takes {len(body)} bytes, more than 2 GB")

    def write_data(out: BinaryIO) -> None:
        at = 0
        for tensor, offset in zip(tensors, offsets, strict=True):
            out.write(b"\0" * (offset - at))
            at = offset + _written(out, tensor)

    with _atomic(data) as (write, commit), _atomic(file) as (write_model, commit_model):
        write(write_data)
        write_model(lambda out: out.write(body))
        # An old model must never meet new data: better none for a moment than a wrong one.
        file.unlink(missing_ok=True)
        commit()
        commit_model()
    return [file, data]


def _external_entries(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = [proto.graph]
    nodes = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from (t for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL)
            nodes.extend(graph.node)
            continue
        for attribute in nodes.pop().attribute:
            if attribute.HasField("g"):
                graphs.append(attribute.g)
            graphs.extend(attribute.graphs)
            own = [attribute.t] if attribute.HasField("t") else []
            yield from (t for t in [*own, *attribute.tensors] if t.data_location == onnx.TensorProto.EXTERNAL)


def _write_parts(out: BinaryIO, parts: list[wire.Buffer | wire.Payload], tensors: list[ir.TensorProtocol]) -> None:
    for part in parts:
        if isinstance(part, wire.Payload):
            _written(out, tensors[part.index])
        else:
            out.write(part)


def _written(out: BinaryIO, tensor: ir.TensorProtocol) -> int:
    count = write_tensor(tensor, out)
    if count != tensor.nbytes:
        raise SaveError(f"tensor `{tensor.name}` has {count} bytes where its type and shape take {tensor.nbytes}")
    return count


@contextlib.contextmanager
def _atomic(path: Path) -> Iterator[tuple[Callable[[Callable[[BinaryIO], object]], None], Callable[[], None]]]:
    """Give a function that writes to a temporary file beside `path`, and one that moves it there."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    moved = owned = False

    def write(body: Callable[[BinaryIO], object]) -> None:
        nonlocal owned
        owned = True  # by the file object from here on, which closes the descriptor
        with os.fdopen(descriptor, "wb") as out:
            body(out)

    def commit() -> None:
        nonlocal moved
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        moved = True

    try:
        yield write, commit
    finally:
        if not moved:
            if not owned:
                os.close(descriptor)
            temporary.unlink(missing_ok=True)
