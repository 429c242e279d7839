"""A module as files: the graph as an ONNX file without weights, each tensor once, named by its content.

Tensors are external data whose place is given from the root of the store on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.store.files import StoreError, read_json, storage_errors, write_atomically, write_json

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.ir.module import Module

INLINE_BYTES = 4096
"""Tensors up to this size stay in the graph file: a file of their own would cost more than it saves."""

_CHUNK = 1 << 24


def save_snapshot(module: Module, snapshots: Path, tensors: Path) -> str:
    """Write a module and return its digest. Its larger tensors are served from the store from then on.

    Raises:
        StoreError: the disk is full or can't be written.
    """
    import onnx_ir as ir

    # Small tensors are materialised, not renamed: a lazily mapped one would name its source file in the snapshot.
    _replace_tensors(module.model, lambda tensor: _stored(tensor, tensors))
    data = ir.to_proto(module.model).SerializeToString(deterministic=True)
    digest = hashlib.blake2b(data, digest_size=20).hexdigest()
    parts = {Path(tensor.location).name: tensor.length for tensor in _external_tensors(module.model)}
    # The graph comes last: where it stands, all it refers to stood when it was written.
    write_json(_listing(snapshots, digest), {"graph": len(data), "tensors": parts})
    write_atomically(_graph(snapshots, digest), data)
    return digest


def is_whole(digest: str, snapshots: Path, tensors: Path) -> bool:
    """Say whether a snapshot and all its tensors are there, by their sizes; without reading them."""
    listing = read_json(_listing(snapshots, digest))
    if not isinstance(listing, dict):
        return False
    parts = [(tensors / name[:2] / name, size) for name, size in listing["tensors"].items()]
    return all(_size(path) == size for path, size in [(_graph(snapshots, digest), listing["graph"]), *parts])


def _graph(snapshots: Path, digest: str) -> Path:
    return snapshots / digest[:2] / f"{digest}.onnx"


def _listing(snapshots: Path, digest: str) -> Path:
    return snapshots / digest[:2] / f"{digest}.json"


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def load_snapshot(digest: str, snapshots: Path, tensors: Path) -> Module:
    """Load a module by its digest; tensors are mapped, not read.

    Raises:
        StoreError: the snapshot or one of its tensors is missing or damaged.
    """
    import onnx
    import onnx_ir as ir
    from mopt.ir.module import Module

    path = _graph(snapshots, digest)
    if not path.is_file():
        raise StoreError(f"{path} is not in the store (any more): compile the recipe again to make it anew")
    with storage_errors(path):
        data = path.read_bytes()
    if hashlib.blake2b(data, digest_size=20).hexdigest() != digest:
        raise StoreError(f"snapshot {path} is damaged; delete it and compile again")
    proto = onnx.ModelProto()
    proto.ParseFromString(data)
    model = ir.serde.deserialize_model(proto)
    ir.external_data.set_base_dir(model.graph, tensors.parent)
    for function in model.functions.values():
        ir.external_data.set_base_dir(function.graph, tensors.parent)
    for tensor in _external_tensors(model):
        blob = tensors / Path(tensor.location).parent.name / Path(tensor.location).name
        if not blob.is_file() or blob.stat().st_size != (tensor.length or 0):
            raise StoreError(f"tensor {blob} of a snapshot is missing or damaged; delete {path} and compile again")
    return Module(model)


def _stored(tensor: Any, tensors: Path) -> Any:
    import onnx_ir as ir

    if tensor.dtype == ir.DataType.STRING:
        return tensor
    if tensor.nbytes <= INLINE_BYTES:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)
    if isinstance(tensor, ir.ExternalTensor) and Path(tensor.path).resolve().is_relative_to(tensors.resolve()):
        return tensor
    digest = _put_blob(tensor, tensors)
    return ir.ExternalTensor(
        f"tensors/{digest[:2]}/{digest}",
        0,
        tensor.nbytes,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name or digest,
        base_dir=tensors.parent,
    )


def _put_blob(tensor: Any, tensors: Path) -> str:
    hasher = hashlib.blake2b(digest_size=20)
    for chunk in _chunks(tensor):
        hasher.update(chunk)
    digest = hasher.hexdigest()
    path = tensors / digest[:2] / digest
    if not path.is_file() or path.stat().st_size != tensor.nbytes:

        def write(file: Any) -> None:
            for chunk in _chunks(tensor):
                file.write(chunk)

        write_atomically(path, write)
    return digest


def _chunks(tensor: Any) -> Iterator[Any]:
    """Yield the raw little-endian bytes of a tensor in pieces, without a second copy of a large one."""
    import numpy as np

    array = tensor.numpy()
    if tensor.dtype.bitwidth < 8 or array.dtype.byteorder == ">":
        yield tensor.tobytes()
        return
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    for start in range(0, flat.size, _CHUNK):
        yield flat[start : start + _CHUNK].data


def _replace_tensors(model: ir.Model, replace: Callable[[Any], Any]) -> None:
    import onnx_ir as ir

    for graph in _graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = replace(value.const_value)
    for node in _nodes(model):
        for name, attribute in list(node.attributes.items()):
            if (
                isinstance(attribute, ir.Attr)
                and attribute.type == ir.AttributeType.TENSOR
                and attribute.value is not None
            ):
                stored = replace(attribute.value)
                if stored is not attribute.value:
                    node.attributes[name] = ir.AttrTensor(name, stored)


def _external_tensors(model: ir.Model) -> Iterator[Any]:
    import onnx_ir as ir

    for graph in _graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    for node in _nodes(model):
        for attribute in node.attributes.values():
            if isinstance(attribute, ir.Attr) and isinstance(attribute.value, ir.ExternalTensor):
                yield attribute.value


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from model.graph.subgraphs()


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()
