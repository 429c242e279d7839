"""Loading a model file: weights stay in the file (or in one shared buffer) until somebody reads them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from mopt.ir import wire
from mopt.ir.errors import LoadError
from mopt.ir.external import ExternalFiles
from mopt.ir.mapped import Buffer, open_buffer, view_tensor
from mopt.ir.module import Module
from mopt.ir.proto import from_proto
from mopt.ir.skeleton import new_token, replace_tensors

_MAPPED_FROM = 1024
"""Bytes from which on a tensor is left in the file instead of being parsed."""

_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive, as PyTorch and Keras 3 write them: use `torch(…)` or `keras(…)`"),
    (0, b"\x89HDF", "an HDF5 file: use `keras(…)`"),
    (0, b"\x80\x02", "a Python pickle, which is never opened"),
    (0, b"\x80\x04", "a Python pickle, which is never opened"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (8, b'{"', "a safetensors file, which holds weights but no graph"),
    (0, b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
)


def load(path: Path | str, *, infer: bool = True) -> Module:
    """Load an ONNX file with its external data.

    Args:
        path: the `.onnx` file.
        infer: infer types and shapes; False leaves what the file says of them.

    Raises:
        LoadError: there is no such file, it is no valid ONNX model, or its external data are missing or lie outside
            its folder.
    """
    file = Path(path)
    buffer = _open(file)
    token = new_token()
    try:
        skeleton, spans = wire.extract(memoryview(buffer), _MAPPED_FROM, token)
        proto = onnx.ModelProto.FromString(skeleton)
    except (wire.WireError, RecursionError, DecodeError) as error:
        raise LoadError(f"{file} is {_diagnosis(buffer, error)}") from error
    if not proto.HasField("graph"):
        raise LoadError(f"{file} is {_diagnosis(buffer, None)}")
    try:
        module = from_proto(proto, infer=False)
    except LoadError as error:
        raise LoadError(f"{file}: {error}") from error
    files = ExternalFiles(file)

    def fill(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        marker, _, index = str(tensor.location).rpartition(":")
        if marker != token:
            return files.view(tensor)
        span = spans[int(index)]
        try:
            return view_tensor(buffer, span.offset, span.length, tensor)
        except (ValueError, TypeError) as error:
            raise LoadError(
                f"{file}: the weights of `{tensor.name}` do not fit: {error}; the file is damaged"
            ) from error

    replace_tensors(module.model, fill)
    if infer:
        module.infer_shapes()
    return module


def _open(path: Path) -> Buffer:
    try:
        if path.is_dir():
            hint = (
                ": it holds a TensorFlow SavedModel, use `savedmodel(…)`" if (path / "saved_model.pb").exists() else ""
            )
            raise LoadError(f"{path} is a folder, not an ONNX file{hint or '; name the .onnx file in it'}")
        buffer = open_buffer(path)
    except FileNotFoundError as error:
        raise LoadError(f"{path}: no such file") from error
    except OSError as error:
        reason = "its links form a loop" if error.errno == errno.ELOOP else os.strerror(error.errno or 0)
        raise LoadError(f"{path} can't be read: {reason}") from error
    except ValueError as error:
        raise LoadError(f"{path!s} is no path: {error}") from error
    if len(buffer) == 0:
        raise LoadError(f"{path} is empty (0 bytes); it was probably not written or copied completely")
    return buffer


def _diagnosis(buffer: Buffer, error: Exception | None) -> str:
    head = bytes(buffer[:4096])
    for offset, magic, meaning in _SIGNATURES:
        if head[offset:].startswith(magic):
            return f"not an ONNX model but {meaning}"
    if _is_text(head):
        return "a text file, not an ONNX model"
    # An ONNX file starts with its IR version (field 1) and soon names its producer or its graph.
    if head[:1] == b"\x08" and isinstance(error, wire.WireError):
        return f"a damaged ONNX model ({error}); it was probably not written or copied completely"
    return "not an ONNX model, or a damaged one" + (f" ({error})" if isinstance(error, wire.WireError) else "")


def _is_text(head: bytes) -> bool:
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and len(head) > 3
    return True
