"""Time by layer of an engine: TensorRT's profiler, mapped back by the file beside the engine."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mopt.runtime.gpu import gpus
from mopt.runtime.profiler.engine_nodes import engine_times
from mopt.runtime.trt.runner import TrtRunner
from mopt.runtime.trt.target import TrtTarget

LAYERS = [
    {"name": "conv1 + relu1", "kind": "fusedConv", "tactic": "", "inputs": [], "constants": [], "outputs": [],
     "nodes": ["conv1", "relu1"], "layers": ["features.0"]},
    {"name": "fc", "kind": "gemm", "tactic": "", "inputs": [], "constants": [], "outputs": [], "nodes": ["fc"],
     "layers": ["head"]},
]  # fmt: skip


class Told:
    """A loaded engine whose layers take times that are told; the first runs are slow."""

    def layer_times(self, feeds, runs):
        return {
            "conv1 + relu1": [1.0] * 3 + [0.006] * (runs - 3), "fc": [1.0] * 3 + [0.003] * (runs - 3),
            "Reformatting CopyNode": [0.001] * runs,
        }  # fmt: skip


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    stored = {"capabilities": {"sm80": 0}, "variants": [LAYERS]}
    (tmp_path / "model.engine.layers.json").write_text(json.dumps(stored), encoding="utf-8")
    return path


def test_layers_are_mapped_back_to_nodes_and_source_layers(engine):
    found = engine_times(engine, "tensorrt", {}, runs=5, warmup=3, runner=Told())
    assert found.seconds == pytest.approx(0.010)
    assert found.by_layer()[:2] == (("features.0", pytest.approx(0.6)), ("head", pytest.approx(0.3)))
    assert found.operators[0].nodes == ("conv1", "relu1")
    assert found.operators[-1].operator == "Reformatting CopyNode" and found.operators[-1].nodes == ()


def test_without_the_list_layers_go_by_tensorrts_names(engine):
    engine.with_name("model.engine.layers.json").unlink()
    found = engine_times(engine, "tensorrt", {}, runs=2, runner=Told())
    assert {time.operator for time in found.operators} == {"conv1 + relu1", "fc", "Reformatting CopyNode"}


def test_a_runner_puts_tensorrts_profiler_in_and_runs(monkeypatch):
    class Profiler:
        def __init__(self):
            pass

    class Context:
        profiler = None

    runner = TrtRunner.__new__(TrtRunner)
    runner._trt = type("trt", (), {"IProfiler": Profiler})
    runner._context = Context()
    monkeypatch.setattr(runner, "_load", lambda feeds: [feeds], raising=False)
    monkeypatch.setattr(runner, "_cuda", type("cuda", (), {"wait": staticmethod(lambda: None)}), raising=False)

    def run():
        for name, milliseconds in (("a", 2.0), ("b", 0.5)):
            runner._context.profiler.report_layer_time(name, milliseconds)

    monkeypatch.setattr(runner, "_enqueue", run, raising=False)
    assert runner.layer_times({}, 2) == {"a": [0.002, 0.002], "b": [0.0005, 0.0005]}


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")
def test_a_real_engine_tells_its_layers(cnn, tmp_path):
    from mopt.runtime.trt.library import find

    if (library := find("auto")) is None:
        pytest.skip("no TensorRT here")
    major, minor = gpus()[0].capability
    artifact = TrtTarget(capabilities=(f"sm{major}{minor}",)).emit(cnn, tmp_path)
    feeds = {port.name: np.zeros([size if isinstance(size, int) else 1 for size in port.shape], np.float32)
             for port in cnn.inputs}  # fmt: skip
    found = engine_times(artifact.path, library.library, feeds, runs=5)
    assert found.seconds > 0 and any(time.nodes for time in found.operators)
