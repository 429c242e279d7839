"""Loading: every kind of bad file is a LoadError that says what, where and what to do; good ones keep everything."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import mopt.ir
import numpy as np
import onnx
import pytest
from mopt.ir import LoadError, mapped
from onnx import TensorProto, helper, numpy_helper

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])
W = np.arange(32, dtype=np.float32).reshape(4, 8)


def proto(rows: int = 8, **graph: object) -> onnx.ModelProto:
    weights = np.arange(rows * 4, dtype=np.float32).reshape(4, rows)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Relu", ["t"], ["y"])]
    built = helper.make_graph(nodes, "g", [X], [Y], [numpy_helper.from_array(weights, "w")], **graph)  # type: ignore[arg-type]
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def refused(path: Path) -> str:
    with pytest.raises(LoadError) as caught:
        mopt.ir.load(path)
    text = str(caught.value)
    assert str(path) in text
    return text


def test_what_is_loaded(tmp_path: Path) -> None:
    module = mopt.ir.load(written(tmp_path / "m.onnx", proto()))
    assert [str(info) for info in module.inputs] == ["x: f32[N, 4]"]
    assert [str(info) for info in module.outputs] == ["y: f32[N, 8]"]
    assert module.opset == 17
    assert module.dynamic_dims() == ("N",)
    assert [node.name for node in module.nodes()] == ["MatMul_0", "Relu_1"]
    np.testing.assert_array_equal(next(iter(module.weights())).numpy(), W)


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.onnx")


def test_directory(tmp_path: Path) -> None:
    assert "folder" in refused(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    assert "savedmodel(" in refused(tmp_path)


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert "empty" in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize("rows", [8, 4000])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.99])
def test_truncated(tmp_path: Path, rows: int, share: float) -> None:
    body = proto(rows).SerializeToString()
    (tmp_path / "m.onnx").write_bytes(body[: int(len(body) * share)])
    text = refused(tmp_path / "m.onnx")
    assert "damaged" in text or "no graph" in text


def test_every_truncation_is_refused_cleanly(tmp_path: Path) -> None:
    body = proto().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(body)):
        path.write_bytes(body[:length])
        try:
            mopt.ir.load(path)
        except LoadError:
            continue
        # A cut between two fields after the graph leaves a complete model.
        assert length > len(body) - 16


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"just some words\n" * 40, "text file"),
        ("größe = 3\n".encode() * 600, "text file"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "keras"),
        (pickle.dumps({"a": np.zeros(3)}), "pickle"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 64, "TensorFlow Lite"),
        (np.random.default_rng(0).bytes(3000), "not an ONNX model"),
        (b"\0" * 500, "not an ONNX model"),
        (b"\x08\x08", "not an ONNX model"),
    ],
)
def test_other_formats(tmp_path: Path, body: bytes, words: str) -> None:
    (tmp_path / "m.onnx").write_bytes(body)
    assert words in refused(tmp_path / "m.onnx")


def test_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.onnx", "w") as archive:
        archive.writestr("data.pkl", "x")
    assert "torch(" in refused(tmp_path / "m.onnx")


def test_link_loop(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").symlink_to(tmp_path / "n.onnx")
    (tmp_path / "n.onnx").symlink_to(tmp_path / "m.onnx")
    assert "loop" in refused(tmp_path / "m.onnx")


def test_cycle(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])]
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 4])
    model = helper.make_model(helper.make_graph(nodes, "g", [X], [y]), opset_imports=[helper.make_opsetid("", 17)])
    assert "cycle" in refused(written(tmp_path / "m.onnx", model))


def test_unsorted_graphs_are_sorted(tmp_path: Path) -> None:
    model = proto()
    first, second = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([second, first])
    module = mopt.ir.load(written(tmp_path / "m.onnx", model))
    assert [node.op_type for node in module.nodes()] == ["MatMul", "Relu"]
    assert not mopt.ir.verify(module)


def test_invalid_graphs_name_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    dangling = proto()
    dangling.graph.node[0].input[1] = "missing"
    assert "`missing`, which nothing produces" in refused(written(path, dangling))
    doubled = proto()
    doubled.graph.node[0].output[0] = "y"
    assert "`y` is defined twice" in refused(written(path, doubled))
    lost = proto()
    lost.graph.output[0].name = "z"
    assert "output `z`" in refused(written(path, lost))
    twice = proto()
    twice.graph.input.append(X)
    assert "two inputs of one name" in refused(written(path, twice))
    same = proto()
    same.graph.initializer.append(same.graph.initializer[0])
    assert "two initializers of one name" in refused(written(path, same))


def test_newer_versions(tmp_path: Path) -> None:
    model = proto()
    model.opset_import[0].version = 999
    assert "opset 999" in refused(written(tmp_path / "m.onnx", model))
    model = proto()
    model.ir_version = 99
    assert "IR version 99" in refused(written(tmp_path / "m.onnx", model))


def test_tensor_of_the_wrong_size(tmp_path: Path) -> None:
    model = proto(400)
    model.graph.initializer[0].dims[0] = 5
    assert "`w` do not fit" in refused(written(tmp_path / "m.onnx", model))


def test_map_types_are_refused(tmp_path: Path) -> None:
    model = proto()
    model.graph.output[0].type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    assert "Map types" in refused(written(tmp_path / "m.onnx", model))


def external(tmp_path: Path, location: str, **entries: int) -> Path:
    model = proto()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    return written(folder / "m.onnx", model)


def test_external_data(tmp_path: Path) -> None:
    path = external(tmp_path, "sub/w.bin", offset=16, length=W.nbytes)
    (path.parent / "sub").mkdir()
    (path.parent / "sub" / "w.bin").write_bytes(b"\0" * 16 + W.tobytes())
    np.testing.assert_array_equal(next(iter(mopt.ir.load(path).weights())).numpy(), W)


def test_external_data_missing(tmp_path: Path) -> None:
    assert "`w.bin` with the weights of `w` is missing" in refused(external(tmp_path, "w.bin"))


def test_external_data_too_short(tmp_path: Path) -> None:
    path = external(tmp_path, "w.bin")
    (path.parent / "w.bin").write_bytes(W.tobytes()[:-1])
    assert "truncated" in refused(path)
    path = external(tmp_path, "w.bin", offset=10**12)
    assert "truncated" in refused(path)
    path = external(tmp_path, "w.bin", length=12)
    assert "do not fit" in refused(path)


def test_external_data_outside(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    for location in ("../w.bin", str(tmp_path / "w.bin"), "sub/../../w.bin"):
        assert "outside the model's folder" in refused(external(tmp_path, location))
    path = external(tmp_path, "link.bin")
    (path.parent / "link.bin").symlink_to(tmp_path / "w.bin")
    assert "outside the model's folder" in refused(path)


def test_external_data_behind_a_link_inside(tmp_path: Path) -> None:
    path = external(tmp_path, "link.bin")
    (path.parent / "real.bin").write_bytes(W.tobytes())
    (path.parent / "link.bin").symlink_to(path.parent / "real.bin")
    np.testing.assert_array_equal(next(iter(mopt.ir.load(path).weights())).numpy(), W)


def test_odd_external_entries(tmp_path: Path) -> None:
    assert "no file name" in refused(external(tmp_path, ""))
    assert "represented" in refused(external(tmp_path, "w.bin", offset=-4))


def test_names_with_spaces_and_unicode(tmp_path: Path) -> None:
    folder = tmp_path / "ein Ordner mit Ü"
    folder.mkdir()
    model = proto(400)
    model.graph.node[1].name = "größe 1/ü"
    module = mopt.ir.load(written(folder / "mödel 1.onnx", model))
    assert [node.name for node in module.nodes()][1] == "größe 1/ü"
    saved = mopt.ir.save(module, folder / "kopie ß.onnx", external_data=True)
    assert [path.name for path in saved] == ["kopie ß.onnx", "kopie ß.onnx.data"]
    assert mopt.ir.print_module(mopt.ir.load(saved[0])) == mopt.ir.print_module(module)


def test_large_files_are_mapped_and_survive_being_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "READ_WHOLE", 100)
    path = written(tmp_path / "m.onnx", proto(4000))
    module = mopt.ir.load(path)
    weight = next(iter(module.weights()))
    expected = np.arange(16000, dtype=np.float32).reshape(4, 4000)
    mopt.ir.save(mopt.ir.from_proto(proto()), path)
    np.testing.assert_array_equal(weight.numpy(), expected)
    assert not weight.numpy().flags.owndata
    mopt.ir.save(module, path)
    np.testing.assert_array_equal(next(iter(mopt.ir.load(path).weights())).numpy(), expected)


def test_sparse_initializers_become_dense(tmp_path: Path) -> None:
    model = proto()
    del model.graph.initializer[:]
    values = numpy_helper.from_array(np.array([5, 7], dtype=np.float32), "w")
    for indices in (np.array([3, 9]), np.array([[0, 3], [1, 1]])):
        del model.graph.sparse_initializer[:]
        sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices.astype(np.int64), "i"), [4, 8])
        model.graph.sparse_initializer.append(sparse)
        module = mopt.ir.load(written(tmp_path / "m.onnx", model))
        dense = next(iter(module.weights())).numpy()
        assert dense[0, 3] == 5
        assert dense[1, 1] == 7
        assert np.count_nonzero(dense) == 2
        assert "made dense" in module.notes[0]


def test_defaults_of_inputs_become_constant(tmp_path: Path) -> None:
    model = proto()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 8]))
    module = mopt.ir.load(written(tmp_path / "m.onnx", model))
    assert [info.name for info in module.inputs] == ["x"]
    assert not module.graph.initializers["w"].is_graph_input()
    assert module.notes == ("input `w` has a default value and became constant",)
    model.ir_version = 3
    module = mopt.ir.load(written(tmp_path / "m.onnx", model))
    assert module.model.ir_version == 4
    assert module.notes == ()


def test_unknown_dimensions_get_names(tmp_path: Path) -> None:
    model = proto()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value = -1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "?"
    module = mopt.ir.load(written(tmp_path / "m.onnx", model))
    assert module.dynamic_dims() == ("x_0",)
    assert module.outputs[0].shape == ("x_0", 8)


def test_placeholders_for_dimensions_get_names(tmp_path: Path) -> None:
    """As tf2onnx writes them; onnx's inference would take them for its own."""
    model = proto()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "unk__7"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "unk__8"
    second = helper.make_tensor_value_info("z:0", TensorProto.FLOAT, ["unk__7", "unk__9", "?", "?"])
    model.graph.input.append(second)
    module = mopt.ir.load(written(tmp_path / "m.onnx", model))
    assert [info.shape for info in module.inputs] == [("x_0", 4), ("x_0", "z_0_1", "z_0_2", "z_0_3")]
    assert module.outputs[0].shape == ("x_0", 8)


def test_a_model_keeps_its_metadata(tmp_path: Path) -> None:
    model = proto()
    helper.set_model_props(model, {"charset": "ä\nb\t" * 300, "": "empty key"})
    model.producer_name, model.producer_version, model.domain, model.model_version = "p", "1.2", "d.e", 7
    model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "words"
    model.graph.node[0].metadata_props.add(key="k", value="v")
    model.graph.metadata_props.add(key="g", value="h")
    model.opset_import.add(domain="my.domain", version=3)
    path = written(tmp_path / "m.onnx", model)
    mopt.ir.save(mopt.ir.load(path), tmp_path / "n.onnx")
    copy = onnx.load(tmp_path / "n.onnx")
    assert {e.key: e.value for e in copy.metadata_props} == {e.key: e.value for e in model.metadata_props}
    for field in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        assert getattr(copy, field) == getattr(model, field)
    assert copy.graph.doc_string == copy.graph.node[0].doc_string == "words"
    assert [(e.key, e.value) for e in copy.graph.node[0].metadata_props] == [("k", "v")]
    assert [(e.key, e.value) for e in copy.graph.metadata_props] == [("g", "h")]
    assert [(o.domain, o.version) for o in copy.opset_import] == [("", 17), ("my.domain", 3)]


def test_texts_that_are_no_utf8(tmp_path: Path) -> None:
    model = proto()
    model.graph.node[0].name = "@@@@"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString().replace(b"@@@@", b"\xb4\xf3\xd0\xa1"))
    assert "name of a MatMul node is not UTF-8" in refused(tmp_path / "m.onnx")


def test_small_tensors_of_the_wrong_size(tmp_path: Path) -> None:
    model = proto()
    model.graph.initializer[0].raw_data = b"\0" * 12
    assert "takes 128 bytes, the file has 12" in refused(written(tmp_path / "m.onnx", model))
    model.graph.initializer[0].ClearField("raw_data")
    assert "weights were stripped" in refused(written(tmp_path / "m.onnx", model))
    model.graph.initializer[0].data_type = 77
    assert "unknown element type 77" in refused(written(tmp_path / "m.onnx", model))


def test_attributes_without_a_type(tmp_path: Path) -> None:
    """As the first versions of ONNX wrote them."""
    model = proto()
    model.graph.node[1].op_type = "LeakyRelu"
    model.graph.node[1].attribute.add(name="alpha", f=0.5)
    module = mopt.ir.load(written(tmp_path / "m.onnx", model))
    assert not mopt.ir.verify(module)
    assert "LeakyRelu(t) {alpha=0.5}" in mopt.ir.print_module(module)
    model.graph.node[1].attribute[0].ClearField("f")
    assert "neither a type nor a value" in refused(written(tmp_path / "m.onnx", model))


def test_damaged_files_never_break_anything(tmp_path: Path) -> None:
    """Random bytes changed, cut out or put in: a LoadError, or a module that everything works on."""
    random = np.random.default_rng(5)
    body, loaded = proto().SerializeToString(), 0
    for _ in range(600):
        damaged = bytearray(body)
        place = int(random.integers(len(body)))
        kind = random.integers(3)
        if kind == 0:
            damaged[place] = random.integers(256)
        elif kind == 1:
            del damaged[place : place + int(random.integers(1, 5))]
        else:
            damaged[place:place] = random.bytes(2)
        (tmp_path / "m.onnx").write_bytes(damaged)
        try:
            module = mopt.ir.load(tmp_path / "m.onnx")
        except LoadError:
            continue
        loaded += 1
        mopt.ir.verify(module)
        mopt.ir.print_module(module)
        mopt.ir.save(module, tmp_path / "n.onnx")
    assert 0 < loaded < 600
