"""The protobuf wire format of ONNX files, as far as it takes to leave large tensors where they are.

`extract` copies a serialised model without its large `raw_data` and says where in the file they lie, so that they
can be mapped instead of parsed; `splice` is its inverse and lets a model be written without a second copy of its
weights. What stands in for a tensor in between is an external-data entry whose location starts with a token.

Format: https://protobuf.dev/programming-guides/encoding/; field numbers: `onnx.proto`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Buffer: TypeAlias = "bytes | memoryview"

_NESTED: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "function": {7: "node", 11: "attribute"},
}
"""Field number → kind of message, along every path that leads to a `TensorProto`."""

_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class WireError(ValueError):
    """The bytes are not a protobuf message; the message says what stands where."""


@dataclass(frozen=True)
class Span:
    """Where a tensor's bytes lie in the buffer."""

    offset: int
    length: int


@dataclass(frozen=True)
class Payload:
    """A place in spliced output where the bytes of tensor `index` go."""

    index: int
    length: int


@dataclass(frozen=True)
class _Field:
    number: int
    wire: int
    start: int
    body: int
    end: int


def extract(buffer: Buffer, threshold: int, token: str) -> tuple[bytes, list[Span]]:
    """Take the `raw_data` of at least `threshold` bytes out of a serialised `ModelProto`.

    Returns:
        The model without them, and their places: tensor i has the external location `token:i`.

    Raises:
        WireError: the buffer is truncated or no protobuf message.
    """
    view = memoryview(buffer)
    spans: list[Span] = []

    def tensor(start: int, end: int) -> list[Buffer]:
        fields = list(_fields(view, start, end))
        raw = [field for field in fields if field.number == _RAW_DATA and field.wire == _BYTES]
        external = any(field.number == _DATA_LOCATION and view[field.body] == 1 for field in fields)
        if not raw or external or raw[-1].end - raw[-1].body < threshold:
            return [view[start:end]]
        parts: list[Buffer] = [view[field.start : field.end] for field in fields if field.number != _RAW_DATA]
        entry = _entry(1, b"location") + _entry(2, f"{token}:{len(spans)}".encode())
        parts.append(_entry(_EXTERNAL_DATA, entry) + _key(_DATA_LOCATION, _VARINT) + b"\x01")
        spans.append(Span(raw[-1].body, raw[-1].end - raw[-1].body))
        return parts

    def wanted(field: _Field) -> bool:
        return field.end - field.body >= threshold

    parts = _rewrite(view, 0, len(view), "model", wanted, tensor)
    return b"".join(part for part in parts if not isinstance(part, Payload)), spans


def splice(skeleton: bytes, lengths: Sequence[int], token: str) -> list[Buffer | Payload]:
    """Say how to write a model whose tensors were replaced by entries with locations `token:i`.

    Args:
        skeleton: the serialised model.
        lengths: bytes of each tensor.
        token: what marks the entries.

    Returns:
        The pieces of the file, in order: bytes as they are, and payloads whose bytes the caller writes.
    """
    view = memoryview(skeleton)
    mark = f"{token}:".encode()

    def tensor(start: int, end: int) -> list[Buffer | Payload]:
        parts: list[Buffer | Payload] = []
        index: int | None = None
        for field in _fields(view, start, end):
            body = bytes(view[field.body : field.end]) if field.number == _EXTERNAL_DATA else b""
            if mark in body:
                index = int(body.rpartition(b":")[2])
            elif field.number not in (_EXTERNAL_DATA, _DATA_LOCATION):
                parts.append(view[field.start : field.end])
        if index is None:
            return [view[start:end]]
        parts.append(_key(_RAW_DATA, _BYTES) + _varint(lengths[index]))
        parts.append(Payload(index, lengths[index]))
        return parts

    def wanted(field: _Field) -> bool:
        return skeleton.find(mark, field.body, field.end) >= 0

    return _rewrite(view, 0, len(view), "model", wanted, tensor)


def size_of(parts: Sequence[Buffer | Payload]) -> int:
    """Return the bytes that parts come to."""
    return sum(part.length if isinstance(part, Payload) else len(part) for part in parts)


def _rewrite(
    view: memoryview,
    start: int,
    end: int,
    kind: str,
    wanted: Callable[[_Field], bool],
    tensor: Callable[[int, int], list[Buffer]] | Callable[[int, int], list[Buffer | Payload]],
) -> list[Buffer | Payload]:
    """Copy a message, passing every wanted tensor inside it through `tensor`; enclosing lengths are corrected."""
    parts: list[Buffer | Payload] = []
    copied = start
    nested = _NESTED[kind]
    for field in _fields(view, start, end):
        inner = nested.get(field.number)
        if inner is None or field.wire != _BYTES or not wanted(field):
            continue
        if inner == "tensor":
            replaced: list[Buffer | Payload] = list(tensor(field.body, field.end))
        else:
            replaced = _rewrite(view, field.body, field.end, inner, wanted, tensor)
        parts.append(view[copied : field.start])
        parts.append(_key(field.number, _BYTES) + _varint(size_of(replaced)))
        parts.extend(replaced)
        copied = field.end
    parts.append(view[copied:end])
    return parts


def _fields(view: memoryview, start: int, end: int) -> list[_Field]:
    found: list[_Field] = []
    position = start
    while position < end:
        first = position
        key, position = _read_varint(view, position, end)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise WireError(f"byte {first}: field number 0 is not allowed")
        body = position
        if wire == _VARINT:
            _, position = _read_varint(view, position, end)
        elif wire == _FIXED64:
            position += 8
        elif wire == _FIXED32:
            position += 4
        elif wire == _BYTES:
            length, body = _read_varint(view, position, end)
            position = body + length
        else:
            raise WireError(f"byte {first}: wire type {wire} is not used by ONNX")
        if position > end:
            raise WireError(f"byte {first}: a field of {position - body} bytes runs past the end, at byte {end}")
        found.append(_Field(number, wire, first, body, position))
    return found


def _read_varint(view: memoryview, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if position >= end:
            raise WireError(f"byte {position}: the data end in the middle of a number")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise WireError(f"byte {position}: a number of more than 64 bits")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _entry(number: int, body: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(body)) + body
