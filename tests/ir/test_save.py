"""Saving: whole or not at all, streamed, split where asked, and byte for byte reproducible."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import mopt.ir
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from mopt.ir import SaveError, mapped, save, wire
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(7)
BIG = RNG.standard_normal((64, 64)).astype(np.float32)


def everywhere() -> onnx.ModelProto:
    """Return a model with large weights in an initializer, a Constant, an If branch and a function."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 64])
    c = helper.make_tensor_value_info("c", TensorProto.BOOL, [])

    def branch(name: str, scale: float) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [4, 64])
        node = helper.make_node("MatMul", ["u", f"{name}_w"], [f"{name}_y"])
        return helper.make_graph(
            [node], name, [], [out], [numpy_helper.from_array(BIG * np.float32(scale), f"{name}_w")]
        )

    body = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(BIG + 1, "k")),
        helper.make_node("MatMul", ["a", "k"], ["b"]),
    ]
    function = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(BIG + 2, "k")),
        helper.make_node("Gemm", ["x", "w", "k2"], ["s"]),
        helper.make_node("MatMul", ["s", "k"], ["t"]),
        helper.make_node("F", ["t"], ["u"], domain="own"),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("yes", 2), else_branch=branch("no", 3)),
    ]
    weights = [numpy_helper.from_array(BIG, "w"), numpy_helper.from_array(np.ones(3, np.float32)[:1], "k2")]
    graph = helper.make_graph(nodes, "g", [x, c], [y], weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)


def tensors(path: Path) -> dict[str, bytes]:
    return {weight.name: weight.numpy().tobytes() for weight in mopt.ir.load(path).weights()}


@pytest.mark.parametrize("external", [False, True])
def test_weights_everywhere_survive(tmp_path: Path, external: bool) -> None:
    source = tmp_path / "source.onnx"
    source.write_bytes(everywhere().SerializeToString())
    module = mopt.ir.load(source)
    files = save(module, tmp_path / "m.onnx", external_data=external)
    assert [file.name for file in files] == (["m.onnx", "m.onnx.data"] if external else ["m.onnx"])
    assert (files[0].stat().st_size < BIG.nbytes) == external
    assert tensors(files[0]) == tensors(source)
    assert set(tensors(source)) == {"w", "k2", "k", "yes_w", "no_w", "own::F/k"}
    onnx.checker.check_model(str(files[0]), full_check=True)
    reread = onnx.load(files[0])
    np.testing.assert_array_equal(numpy_helper.to_array(reread.graph.initializer[0]), BIG)
    assert sorted(tmp_path.iterdir()) == sorted([source, *files])


def test_one_file_is_what_protobuf_writes(tmp_path: Path) -> None:
    module = mopt.ir.from_proto(everywhere())
    save(module, tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx") == mopt.ir.to_proto(module)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    module = mopt.ir.from_proto(everywhere())
    for external in (False, True):
        first = [f.read_bytes() for f in save(module, tmp_path / "m.onnx", external_data=external)]
        again = [f.read_bytes() for f in save(module.clone(), tmp_path / "m.onnx", external_data=external)]
        assert first == again


def test_more_than_two_gigabytes_go_to_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mopt.ir.saving._PROTO_LIMIT", 5 * BIG.nbytes)
    files = save(mopt.ir.from_proto(everywhere()), tmp_path / "m.onnx")
    assert len(files) == 2
    data = onnx.load(files[0], load_external_data=False).graph.initializer[0].external_data
    assert int({entry.key: entry.value for entry in data}["offset"]) % 4096 == 0


@pytest.mark.parametrize("dtype", [
    np.float16, np.float64, np.int8, np.uint16, np.bool_, np.complex64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
    ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.uint2, ml_dtypes.float4_e2m1fn,
])  # fmt: skip
@pytest.mark.parametrize("shape", [(), (3,), (0, 5), (37, 119)])
def test_element_types(tmp_path: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    array = (RNG.integers(0, 2, shape) * 1).astype(dtype)
    value = ir.Value(name="w", const_value=ir.tensor(array, name="w"))
    value.shape, value.type = ir.Shape(shape), ir.TensorType(value.const_value.dtype)
    graph = ir.Graph([], [], nodes=[], initializers=[value], opset_imports={"": 25}, name="g")
    node = ir.node("Identity", [value])
    graph.append(node)
    graph.outputs.append(node.outputs[0])
    for external in (False, True):
        save(mopt.ir.Module(ir.Model(graph, ir_version=13)), tmp_path / "m.onnx", external_data=external)
        weight = next(iter(mopt.ir.load(tmp_path / "m.onnx").weights()))
        assert weight.shape == shape
        assert weight.tensor.dtype == value.const_value.dtype
        assert weight.numpy().tolist() == array.tolist()
        save(mopt.ir.load(tmp_path / "m.onnx"), tmp_path / "n.onnx")
        assert next(iter(mopt.ir.load(tmp_path / "n.onnx").weights())).numpy().tolist() == array.tolist()


class FullDisk(io.BytesIO):
    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > 20_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("external", [False, True])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    module = mopt.ir.from_proto(everywhere())
    before = [(file, file.read_bytes()) for file in save(module, tmp_path / "m.onnx", external_data=external)]
    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: os.close(descriptor) or FullDisk())
    next(iter(module.weights())).replace(BIG * 9)
    with pytest.raises(SaveError, match="No space left on device"):
        save(module, tmp_path / "m.onnx", external_data=external)
    assert [(file, file.read_bytes()) for file in sorted(tmp_path.iterdir())] == before


@pytest.mark.parametrize("external", [False, True])
def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    def interrupted(tensor: object, out: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("mopt.ir.saving.write_tensor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(mopt.ir.from_proto(everywhere()), tmp_path / "m.onnx", external_data=external)
    assert list(tmp_path.iterdir()) == []


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="No such file or directory"):
        save(mopt.ir.from_proto(everywhere()), tmp_path / "none" / "m.onnx")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    save(mopt.ir.from_proto(everywhere()), tmp_path / "m.onnx")
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.onnx").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_types_that_can_be_inferred_are_not_written(tmp_path: Path) -> None:
    module = mopt.ir.from_proto(everywhere())
    assert not mopt.ir.to_proto(module).graph.value_info
    assert {info.name for info in mopt.ir.to_proto(module, provenance=True).graph.value_info} >= {"s", "t"}
    model = everywhere()
    model.graph.node[3].domain = "com.custom"
    model.opset_import.add(domain="com.custom", version=1)
    del model.functions[:]
    model.graph.value_info.append(helper.make_tensor_value_info("u", TensorProto.FLOAT, [4, 64]))
    custom = mopt.ir.from_proto(model)
    assert [info.name for info in mopt.ir.to_proto(custom).graph.value_info] == ["u"]
    save(custom, tmp_path / "m.onnx")
    again = mopt.ir.load(tmp_path / "m.onnx")
    assert mopt.ir.print_module(again) == mopt.ir.print_module(custom)
    assert not mopt.ir.verify(again)


def test_extract_and_splice_are_inverse() -> None:
    body = everywhere().SerializeToString()
    skeleton, spans = wire.extract(body, 1024, "token")
    assert len(spans) == 5
    assert len(skeleton) < 3000
    parts = wire.splice(skeleton, [span.length for span in spans], "token")
    assert wire.size_of(parts) == len(body)
    restored = b"".join(
        body[spans[part.index].offset :][: part.length] if isinstance(part, wire.Payload) else bytes(part)
        for part in parts
    )
    assert onnx.ModelProto.FromString(restored) == everywhere()


def test_field_numbers_are_those_of_onnx() -> None:
    kinds = {"model": onnx.ModelProto, "graph": onnx.GraphProto, "node": onnx.NodeProto,
             "attribute": onnx.AttributeProto, "function": onnx.FunctionProto, "tensor": onnx.TensorProto}  # fmt: skip
    names = {message.DESCRIPTOR.name: kind for kind, message in kinds.items()}
    for kind, nested in wire._NESTED.items():
        fields = kinds[kind].DESCRIPTOR.fields
        expected = {
            f.number: names[f.message_type.name] for f in fields if f.message_type and f.message_type.name in names
        }
        assert nested == expected
    numbers = {field.name: field.number for field in onnx.TensorProto.DESCRIPTOR.fields}
    assert numbers["raw_data"] == wire._RAW_DATA
    assert numbers["external_data"] == wire._EXTERNAL_DATA
    assert numbers["data_location"] == wire._DATA_LOCATION


def test_the_last_raw_data_wins() -> None:
    """Protobuf lets a field occur twice; its parsers keep the last."""
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [512], b"\1" * 2048, raw=True).SerializeToString()
    second = TensorProto(raw_data=b"\2" * 2048).SerializeToString()
    graph = onnx.GraphProto(name="g")
    body = graph.SerializeToString() + wire._entry(5, tensor + second)
    model = onnx.ModelProto(ir_version=8).SerializeToString() + wire._entry(7, body)
    skeleton, spans = wire.extract(model, 1024, "token")
    assert model[spans[0].offset :][: spans[0].length] == b"\2" * 2048
    assert len(skeleton) < 200


def test_peak_memory_of_saving_is_less_than_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    monkeypatch.setattr(mapped, "READ_WHOLE", 0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    weights = [numpy_helper.from_array(RNG.standard_normal(1 << 20).astype(np.float32), f"w{i}") for i in range(8)]
    nodes = [helper.make_node("Sum", ["x", *(tensor.name for tensor in weights)], ["y"])]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1 << 20])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 17)]
    )
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    tracemalloc.start()
    save(mopt.ir.load(tmp_path / "m.onnx").clone(), tmp_path / "n.onnx")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "n.onnx").stat().st_size > 32 << 20
    assert peak < 4 << 20


def test_tensors_that_refer_to_files_are_written_with_their_content(tmp_path: Path) -> None:
    """A snapshot store keeps tensors in files of their own; what is emitted must not point there."""
    module = mopt.ir.from_proto(everywhere())
    (tmp_path / "blob").write_bytes((BIG * 5).tobytes())
    value = module.graph.initializers["w"]
    shape = ir.Shape(BIG.shape)
    value.const_value = ir.ExternalTensor("blob", 0, None, ir.DataType.FLOAT, shape=shape, name="w", base_dir=tmp_path)
    np.testing.assert_array_equal(numpy_helper.to_array(mopt.ir.to_proto(module).graph.initializer[0]), BIG * 5)
    (path,) = save(module, tmp_path / "m.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]), BIG * 5)
