"""The TensorRT runner's own work (buffers, shapes, copies) over a device of ordinary memory.

The engine is a stand-in that doubles its input; what a GPU computes is not tested here. Tests on a real one are
marked `gpu`.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.gpu import gpus
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.trt.cuda_driver import CudaDriver
from mopt.runtime.trt.runner import TrtRunner
from mopt.runtime.trt.target import TrtTarget


class Driver:
    """Device memory is host memory; every address that is live is known."""

    stream = 7

    def __init__(self):
        self.live = {}
        self.clock = 0.0
        self.marks = {}

    def allocate(self, size):
        block = ctypes.create_string_buffer(max(size, 1))
        address = ctypes.addressof(block)
        self.live[address] = block
        return address

    def free(self, address):
        del self.live[address]

    def to_device(self, address, host, size):
        assert address in self.live
        ctypes.memmove(address, host, size)

    def to_host(self, host, address, size):
        assert address in self.live
        ctypes.memmove(host, address, size)

    def event(self):
        self.marks[len(self.marks)] = 0.0
        return len(self.marks) - 1

    def record(self, event):
        self.marks[event] = self.clock

    def seconds(self, start, end):
        return self.marks[end] - self.marks[start]

    def wait(self):
        pass


class Context:
    def __init__(self, driver, fails=False):
        self.driver, self.fails = driver, fails
        self.shape, self.addresses = None, {}

    def set_input_shape(self, name, shape):
        if not 1 <= shape[0] <= 4 or shape[1] != 3:
            return False
        self.shape = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert stream == self.driver.stream
        self.driver.clock += 0.002
        count = int(np.prod(self.shape))
        given = (ctypes.c_float * count).from_address(self.addresses["x"])
        made = (ctypes.c_float * count).from_address(self.addresses["y"])
        for at in range(count):
            made[at] = 2 * given[at]
        return not self.fails


class Runtime:
    def __init__(self, log, engine):
        self.log, self.engine = log, engine

    def deserialize_cuda_engine(self, data):
        if self.engine is None:
            self.log.log(1, "IRuntime::f: Error Code 6: API Usage Error (other platform. In f at /a.cpp:1)")
        return self.engine


def library(driver, loads=True, fails=False):
    """A stand-in for `tensorrt` with one engine: y = 2·x, x f32[1–4, 3]."""
    mode = SimpleNamespace(INPUT="in", OUTPUT="out")
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda at: "xy"[at],
        get_tensor_mode=lambda name: mode.INPUT if name == "x" else mode.OUTPUT,
        get_tensor_dtype=lambda name: SimpleNamespace(name="FLOAT"),
        get_tensor_shape=lambda name: (-1, 3),
        get_tensor_profile_shape=lambda name, profile: ((1, 3), (1, 3), (4, 3)),
        create_execution_context=lambda: Context(driver, fails),
    )
    return SimpleNamespace(
        TensorIOMode=mode,
        __version__="10.1.2",
        ILogger=type("ILogger", (), {"ERROR": 1}),
        Runtime=lambda log: Runtime(log, engine if loads else None),
    )


@pytest.fixture
def engine_file(tmp_path):
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    return path


def runner(engine_file, driver, **options):
    return TrtRunner(engine_file, "tensorrt", driver=driver, trt=library(driver, **options))


def test_ports(engine_file):
    found = runner(engine_file, Driver())
    assert [(port.name, port.dtype, port.shape) for port in found.inputs + found.outputs] == [
        ("x", "f32", (None, 3)),
        ("y", "f32", (None, 3)),
    ]


def test_buffers_follow_the_shapes_and_are_given_back(engine_file):
    driver = Driver()
    found = runner(engine_file, driver)
    for rows in (1, 4, 2):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        np.testing.assert_array_equal(found.run({"x": x})["y"], 2 * x)
        assert len(driver.live) == 2
    found.close()
    assert not driver.live


def test_arrays_of_any_layout_and_type_are_taken(engine_file):
    x = np.arange(6, dtype=np.float64).reshape(3, 2).T
    np.testing.assert_array_equal(runner(engine_file, Driver()).run({"x": x})["y"], 2 * x)


def test_time_is_the_devices(engine_file):
    assert runner(engine_file, Driver()).timed({"x": np.ones((1, 3), np.float32)}) == pytest.approx(0.002)


def test_a_size_outside_of_the_profile_is_told(engine_file):
    with pytest.raises(
        RunError, match=r"`x` has the shape \[5, 3\], outside .* \(\[1, 3\] to \[4, 3\]\); declare `trt\(profile"
    ):
        runner(engine_file, Driver()).run({"x": np.ones((5, 3), np.float32)})


def test_a_value_the_engine_was_not_built_for_is_told(engine_file):
    engine_file.with_name("model.engine.json").write_text('{"values": {"sr": 16000.0}}')
    found = runner(engine_file, Driver())
    x = np.ones((1, 3), np.float32)
    assert found.run({"x": x, "sr": np.array(16000)})["y"].shape == (1, 3)
    with pytest.raises(TargetError, match="`sr` is fed 8000, and the engine was built for 16000 alone") as caught:
        found.run({"x": x, "sr": np.array(8000)})
    assert caught.value.missing


def test_a_missing_input_and_a_failing_device(engine_file):
    with pytest.raises(RunError, match="no value for input `x`"):
        runner(engine_file, Driver()).run({})
    with pytest.raises(RunError, match="failed on the GPU"):
        runner(engine_file, Driver(), fails=True).run({"x": np.ones((1, 3), np.float32)})


def test_an_engine_for_another_gpu(engine_file):
    with pytest.raises(TargetError, match=r"can't load model\.engine on this GPU: other platform\.$") as caught:
        runner(engine_file, Driver(), loads=False)
    assert caught.value.missing, "exit status 4"


class Broken:
    """A driver whose function `name` fails with `status`, and which is for a version of CUDA."""

    def __init__(self, name="", status=0, cuda=13000):
        self.name, self.status, self.cuda = name, status, cuda

    def __getattr__(self, name):
        def call(*arguments):
            answers = {"cuDriverGetVersion": self.cuda, "cuDeviceGetCount": 1}
            if name in answers:
                arguments[0]._obj.value = answers[name]
            return self.status if name == self.name else 0

        return call


def test_a_driver_call_that_fails_is_named():
    with pytest.raises(RunError, match="cuEventCreate failed with error 700"):
        CudaDriver(Broken("cuEventCreate", 700)).event()
    with pytest.raises(TargetError, match="too little memory left") as caught:
        CudaDriver(Broken("cuMemAlloc_v2", 2)).allocate(16)
    assert caught.value.missing and "smaller" in caught.value.help


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")
def test_a_real_engine_gives_what_onnxruntime_gives(packaged_module, tmp_path):
    module = packaged_module("rec_v4")
    target = TrtTarget()
    engine = target.open(target.emit(module, tmp_path))
    feeds = seeded_inputs(module)
    for name, expected in OrtRunner(module).run(feeds).items():
        np.testing.assert_allclose(engine.run(feeds)[name], expected, atol=2e-3)
    assert 0 < engine.timed(feeds) < 1
