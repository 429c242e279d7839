"""A graph that TensorRT does not take whole: engines and onnxruntime in turn compute what the whole does."""

from __future__ import annotations

import importlib.util
import json
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from mopt.ir import from_proto, load, provenance, save
from mopt.plugin import default_registry
from mopt.runtime.contract import RunError, Sizes, TargetError
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.trt import division
from mopt.runtime.trt.division import divide
from mopt.runtime.trt.measure import measure, uncertain
from mopt.runtime.trt.parts import MANIFEST, PartsRunner, read_parts
from mopt.runtime.trt.refusal import RefusedError
from mopt.runtime.trt.shapes import plans
from mopt.runtime.trt.target import TrtTarget
from mopt.runtime.trt.widen import widened
from onnx import TensorProto, helper, numpy_helper

F = TensorProto.FLOAT
FIRST = RefusedError("TensorRT refuses it", help="", nodes={"culprit": "it has no such operator"})

needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (extra `tensorrt-rtx`)"
)


def with_culprit(module):
    """Put an operator that TensorRT lacks behind an activation in the middle."""
    nodes = [node for node in module.graph if node.op_type in ("HardSigmoid", "Relu", "Clip")]
    before = nodes[len(nodes) // 2]
    value = before.outputs[0]
    new = ir.Node("com.microsoft", "QuickGelu", [value], num_outputs=1, name="culprit")
    new.outputs[0].name, new.outputs[0].type, new.outputs[0].shape = "behind", value.type, value.shape
    module.model.opset_imports.setdefault("com.microsoft", 1)
    module.graph.insert_after(before, new)
    value.replace_all_uses_with(new.outputs[0])
    new.replace_input_with(0, value)
    module.touch()
    return module


@needs_builder
def test_a_real_network_with_an_operator_it_lacks(packaged, tmp_path, monkeypatch):
    """Two engines build around one node; all parts in turn, on onnxruntime, give what the whole gives."""
    module = load(packaged("cls"))
    provenance.stamp_source(module)
    with_culprit(module)
    target = TrtTarget(
        precision="fp16", capabilities=("sm89",), library="tensorrt_rtx", partition=True,
        profile={"x_0": (1, 2, 4), "x_2": (48,), "x_3": (192,)},
    )  # fmt: skip
    bar = SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)
    context = SimpleNamespace(seed=0, bindings={}, scratch=tmp_path, progress=lambda *_, **__: nullcontext(bar))
    for name, options in target.prepare():
        module = default_registry().get("passes", name)(**options).run(module, context).module
    real = division.build_engine

    def kept(part, found, settings, profiles, place):
        save(part, place / "model.onnx")
        return real(part, found, settings, profiles, place)

    monkeypatch.setattr(division, "build_engine", kept)
    artifact = target.emit(module, tmp_path, Sizes())
    assert artifact.path.name == MANIFEST and "2 engines hold" in artifact.notes[0]
    assert "node `culprit` (QuickGelu): it has no operator QuickGelu" in artifact.notes[0]
    listed = read_parts(artifact.path)
    assert [part["runtime"] for part in listed["parts"]] == ["tensorrt", "onnxruntime", "tensorrt"]
    assert listed["parts"][1]["nodes"] == ["culprit"]
    assert sum(len(part["nodes"]) for part in listed["parts"]) > 130
    for part in listed["parts"]:
        if part["runtime"] == "tensorrt":
            file = artifact.path.with_name(part["file"])
            assert file.read_bytes()[:4] == b"vtrt" and file.with_name(f"{file.name}.layers.json").is_file()
            facts = json.loads(file.with_name(f"{file.name}.json").read_text())
            floats = {port["dtype"] for port in facts["inputs"] + facts["outputs"]}
            assert floats == {"FLOAT"}, "16 bits stay inside the engines"
    # Engines can't run here: their ONNX does.
    runner = PartsRunner(artifact.path, lambda file, part: OrtRunner(file.with_suffix(".onnx"), optimize=False))
    feeds = seeded_inputs(module, {"x_0": 3})
    whole = OrtRunner(widened(module, float16=True), optimize=False).run(feeds)
    for name, array in runner.run(feeds).items():
        assert array.shape == whole[name].shape and np.ptp(whole[name]) > 0
        np.testing.assert_allclose(array, whole[name], atol=2e-3)


@needs_builder
def test_what_follows_an_operator_of_unknown_result(tmp_path):
    """Shape inference does not know what comes of it: runs show types and shapes, and the engine behind it builds."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first"),
        helper.make_node("QuickGelu", ["a"], ["b"], name="culprit", domain="com.microsoft"),
        helper.make_node("Conv", ["b", "w"], ["y"], name="second"),
    ]
    weight = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float32), "w")
    ports = [helper.make_tensor_value_info(name, F, ["N", 4, 6, 5]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], [weight])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    module = from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    target = TrtTarget(partition=True, capabilities=("sm89",), library="tensorrt_rtx")
    listed = read_parts(target.emit(module, tmp_path).path)
    assert [part["nodes"] for part in listed["parts"]] == [["first"], ["culprit"], ["second"]]


@needs_builder
def test_what_it_takes_whole_stays_whole(cnn, tmp_path):
    artifact = TrtTarget(partition=True, capabilities=("sm89",), library="tensorrt_rtx").emit(cnn, tmp_path)
    assert artifact.path.name == "model.engine"


@pytest.fixture
def network(build):
    """Conv, culprit, Conv, Relu, Conv: a batch that is dynamic, and a skip connection past the culprit."""
    rng = np.random.default_rng(0)
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="first", **pads),
        helper.make_node("Erf", ["a"], ["b"], name="culprit"),
        helper.make_node("Add", ["a", "b"], ["c"], name="skip"),
        helper.make_node("Conv", ["c", "w"], ["d"], name="second", **pads),
        helper.make_node("Relu", ["d"], ["e"], name="relu"),
        helper.make_node("Conv", ["e", "w"], ["y"], name="third", **pads),
    ]
    weights = {"w": rng.standard_normal((4, 4, 3, 3)).astype(np.float32)}
    return build(nodes, [("x", F, ["N", 4, 6, 5])], [("y", F, ["N", 4, 6, 5])], weights)


def names(nodes):
    return [node.name for node in nodes]


def test_profiles_of_parts_are_measured(network, tmp_path):
    given = {}

    def build_part(part, profiles, place):
        given[tuple(port.name for port in part.inputs)] = part.inputs, profiles
        return ()

    found = divide(network, plans(network, {"N": (1, 2, 8)}), {}, build_part, tmp_path, FIRST)
    assert [part.accepted for part in found.parts] == [True, False, True]
    ports, profiles = given["a", "b"]
    assert ports[0].shape[1:] == (4, 6, 5) and isinstance(ports[0].shape[0], str)
    assert profiles[0].shapes["b"] == ((1, 4, 6, 5), (2, 4, 6, 5), (8, 4, 6, 5))


def test_a_refusal_that_names_no_node_is_traced_to_one(network, tmp_path):
    """The builder fails on whatever holds `second` and says nothing of it: that node alone is set apart."""
    built = []

    def build_part(part, profiles, place):
        mine = [node.name for node in part.graph]
        if "second" in mine:
            raise RefusedError("TensorRT can't build it: it gives no reason", help="", nodes={})
        built.append(mine)
        return ()

    found = divide(network, plans(network, {"N": (1, 2, 8)}), {}, build_part, tmp_path, FIRST)
    assert names(found.refused) == ["culprit", "second"]
    assert [names(part.nodes) for part in found.parts] == [["first"], ["culprit", "skip", "second"], ["relu", "third"]]
    assert sorted(found.engines) == [0, 2] and ["first"] in built


def test_nothing_worth_an_engine_is_an_error(network, tmp_path):
    def build_part(part, profiles, place):
        raise RefusedError("no", help="", nodes={node.name: "no" for node in part.graph})

    with pytest.raises(TargetError, match="TensorRT refuses it; no part of it is worth an engine"):
        divide(network, plans(network, {"N": (1, 2, 8)}), {}, build_part, tmp_path, FIRST)


def test_sizes_that_depend_on_values_stay_out_of_engines(build):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("NonZero", ["r"], ["i"], name="counted"),
        helper.make_node("Cast", ["i"], ["f"], name="behind", to=F),
        helper.make_node("ReduceSum", ["f"], ["s"], name="one", keepdims=0),
        helper.make_node("Add", ["r", "s"], ["y"], name="fixed_again"),
    ]
    module = build(nodes, [("x", F, [3, 4])], [("y", F, [3, 4])])
    module.infer_shapes()
    assert names(uncertain(module)) == ["counted", "behind", "one"]


def test_shapes_are_those_of_runs(network):
    plan = plans(network, {"N": (1, 2, 8)})[0]
    assert measure(network, ["x", "c"], plan, {}).shapes == dict.fromkeys(
        ("x", "c"), ((1, 4, 6, 5), (2, 4, 6, 5), (8, 4, 6, 5))
    )


def test_a_list_of_parts_that_is_damaged_or_incomplete_is_told(tmp_path):
    path = tmp_path / MANIFEST
    for content, told in (("{", "is damaged"), ('{"parts": [{"file": "part1.engine"}]}', "part1.engine is not beside")):
        path.write_text(content)
        with pytest.raises(TargetError, match=told) as caught:
            read_parts(path)
        assert caught.value.missing, "exit status 4"
    path.unlink()
    with pytest.raises(TargetError, match="can't read"):
        read_parts(path)


def test_a_missing_input_is_named(network, tmp_path):
    save(network, tmp_path / "part1.onnx")
    port = {"name": "x", "dtype": "f32", "shape": ["N", 4, 6, 5]}
    part = {"file": "part1.onnx", "runtime": "onnxruntime", "inputs": ["x"], "outputs": ["y"]}
    listed = {"parts": [part], "inputs": [port], "outputs": [{**port, "name": "y"}]}
    (tmp_path / MANIFEST).write_text(json.dumps(listed))
    runner = PartsRunner(tmp_path / MANIFEST, lambda file, part: OrtRunner(file))
    assert runner.inputs[0].name == "x" and runner.outputs[0].name == "y"
    with pytest.raises(RunError, match="`x`"):
        runner.run({})
    assert set(runner.run(seeded_inputs(network, {"N": 2}))) == {"y"}
