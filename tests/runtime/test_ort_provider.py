"""Why a GPU can't be used: each reason is told with what was found and what to install, and nothing runs instead."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import onnxruntime
import pytest
from mopt.ir import Module
from mopt.runtime import gpu, ort_provider
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.gpu import Missing, no_gpu
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_device import DeviceRun
from mopt.runtime.ort_failure import DeviceError, device_failure
from mopt.runtime.ort_provider import chain, provider_problem


def driver(status=0, version=13000, devices=1):
    """Libcuda, saying what it is told to."""

    def fill(value):
        def call(reference, *_):
            reference._obj.value = value
            return 0

        return call

    return SimpleNamespace(cuInit=lambda _: status, cuDriverGetVersion=fill(version), cuDeviceGetCount=fill(devices))


@pytest.mark.parametrize(
    ("library", "reason", "help"),
    [
        (driver(status=100), "the NVIDIA driver finds no GPU", "nvidia-smi"),
        (driver(devices=0), "the NVIDIA driver finds no GPU", "nvidia-smi"),
        (driver(status=35), "the NVIDIA driver is too old", "a newer NVIDIA driver"),
        (driver(version=12080), "it is for CUDA 12.8, and CUDA 13 is needed", "NVIDIA driver 580 or later"),
        (driver(status=804), "too old for this GPU's CUDA libraries", "a newer NVIDIA driver"),
        (driver(status=999), "does not start (error 999)", "install the NVIDIA driver"),
    ],
)
def test_what_the_driver_says(library, reason, help):
    found = no_gpu(13, library)
    assert reason in found.reason
    assert help in found.help


def test_a_driver_that_will_do():
    assert no_gpu(13, driver()) is None
    assert no_gpu(12, driver(version=13010)) is None


def test_no_driver(monkeypatch):
    monkeypatch.setattr(gpu, "LIBRARY", "libno-such-driver.so.1")
    found = no_gpu()
    assert found.reason == "no NVIDIA driver on this machine: libno-such-driver.so.1 is not here"
    assert "install the NVIDIA driver" in found.help


@pytest.fixture
def with_gpu(monkeypatch):
    """A machine whose driver and GPU are fine."""
    monkeypatch.setattr(ort_provider, "no_gpu", lambda cuda: None)
    monkeypatch.setattr(ort_provider, "preload", lambda: None)


@pytest.mark.parametrize(
    ("provider", "absent", "brings"),
    [
        ("cuda", "libcublasLt.so.13", "'onnxruntime-gpu[cuda,cudnn]'"),
        ("cuda", "libcudnn.so.9", "'onnxruntime-gpu[cudnn]'"),
        ("tensorrt", "libnvinfer.so.10", "'tensorrt<11'"),
    ],
)
def test_a_listed_provider_without_its_libraries(with_gpu, monkeypatch, cnn: Module, provider, absent, brings):
    def load(library):
        if library.endswith(f"providers_{provider}.so"):
            raise OSError(f"{absent}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ort_provider, "_load", load)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: pytest.fail("a session was made"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*ort_provider.PROVIDERS.values()])
    with pytest.raises(TargetError, match=f"lists its {provider} provider and can't load it: {absent}") as caught:
        OrtRunner(cnn, provider=provider)
    assert caught.value.missing
    assert f"pip install {brings} (it brings {absent})" == caught.value.help


def test_libraries_that_pytorch_brought_are_found_in_its_folder(monkeypatch, tmp_path):
    for name in ("cu13/lib/libcudart.so.13", "cu13/lib/libcublas.so.12", "cudnn/lib/libcudnn.so.9"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    loaded = []
    monkeypatch.setattr(ort_provider, "find_spec", lambda name: found if name == "nvidia" else None)
    monkeypatch.setattr(ort_provider, "_load", loaded.append)
    monkeypatch.setattr(ort_provider, "_cuda_major", lambda: 13)
    ort_provider.preload()
    assert [name.removeprefix(f"{tmp_path}/") for name in loaded] == [
        "cu13/lib/libcudart.so.13",
        "cudnn/lib/libcudnn.so.9",
    ]


def test_a_library_that_is_broken_is_told_as_it_is(with_gpu, monkeypatch):
    def load(library):
        raise OSError("undefined symbol: cublasCreate")

    monkeypatch.setattr(ort_provider, "_load", load)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert "undefined symbol" in provider_problem("cuda").reason
    assert "--force-reinstall" in provider_problem("cuda").help


def test_a_build_without_the_provider(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = provider_problem("cuda")
    assert "has no cuda provider" in found.reason
    assert "onnxruntime-gpu[cuda,cudnn]" in found.help
    assert provider_problem("cpu") is None


def test_the_driver_must_be_for_the_cuda_that_onnxruntime_is_built_for(monkeypatch):
    asked = []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(ort_provider, "no_gpu", lambda cuda: asked.append(cuda) or Missing("too old", "newer"))
    assert provider_problem("cuda") == Missing("too old", "newer")
    assert asked == [13]


def test_what_tensorrt_leaves_goes_to_cuda_before_the_cpu():
    found = chain("tensorrt", {"tensorrt": {"a": "1"}, "cuda": {"b": "2"}})
    assert found == [
        ("TensorrtExecutionProvider", {"a": "1"}), ("CUDAExecutionProvider", {"b": "2"}), ("CPUExecutionProvider", {}),
    ]  # fmt: skip


OUT_OF_MEMORY = (
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : bfc_arena.cc:401 AllocateRawInternal "
    "Failed to allocate memory for requested buffer of size 2147483648",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=x",
    "Available memory of 1024 is smaller than requested bytes of 4194304",
)


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_a_gpu_without_memory_left(text):
    found = device_failure(RuntimeError(text))
    assert "the GPU has too little memory left" in str(found)
    assert found.missing and "smaller batches" in found.help
    assert ("2,048 MiB" in str(found)) == ("2147483648" in text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version", "driver is too old"),
        ("CUDA failure 209: no kernel image is available for execution on the device", "compute capability"),
        ("CUDA failure 719: unspecified launch failure", "the GPU failed"),
        ("CUDNN failure: CUDNN_STATUS_EXECUTION_FAILED", "the GPU failed"),
    ],
)
def test_other_failures_of_the_device(text, told):
    assert told in str(device_failure(RuntimeError(text)))


def test_errors_of_the_model_are_not_the_devices():
    assert device_failure(RuntimeError("[ShapeInferenceError] Mismatch between number of inferred dims")) is None


class Broken:
    """A session whose runs fail as a GPU's do."""

    def io_binding(self):
        return SimpleNamespace(
            bind_ortvalue_input=lambda *_: None, bind_output=lambda *_: None, synchronize_outputs=lambda: None
        )

    def run_with_iobinding(self, binding, options):
        raise RuntimeError(OUT_OF_MEMORY[0])


def test_memory_that_runs_out_in_a_run():
    with pytest.raises(DeviceError, match="too little memory") as caught:
        DeviceRun(Broken(), ["y"], {}, "cuda")()
    assert isinstance(caught.value, TargetError) and isinstance(caught.value, RunError)


@pytest.fixture
def session_fails(with_gpu, monkeypatch):
    """Make OrtRunner get as far as the session, which raises."""

    def use(text):
        def session(*_, **options):
            assert options["enable_fallback"] == 0, "onnxruntime would run on the CPU instead"
            raise RuntimeError(text)

        monkeypatch.setattr("mopt.runtime.ort.require", lambda provider: None)
        monkeypatch.setattr("mopt.runtime.trt.cuda_driver.CudaDriver", lambda: SimpleNamespace(stream=7))
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)

    return use


def test_memory_that_runs_out_at_load(session_fails, cnn: Module):
    session_fails(OUT_OF_MEMORY[1])
    with pytest.raises(DeviceError, match="too little memory left"):
        OrtRunner(cnn, provider="cuda")


def test_a_model_that_is_no_cuda_graph(session_fails, cnn: Module):
    session_fails("This session cannot use the graph capture feature as requested by the user as the model has If")
    from mopt.runtime.ort_options import GpuOptions

    with pytest.raises(TargetError, match="can't run as a CUDA graph: This session") as caught:
        OrtRunner(cnn, provider="cuda", options=GpuOptions(cuda_graph=True))
    assert "leave `cuda_graph` out" in caught.value.help
    assert not caught.value.missing


def test_another_gpu_is_chosen_by_the_environment(session_fails, cnn: Module):
    session_fails("")
    with pytest.raises(TargetError, match="device_id") as caught:
        OrtRunner(cnn, provider="cuda", options={"device_id": "1"})
    assert "CUDA_VISIBLE_DEVICES" in caught.value.help


@pytest.mark.parametrize("text", [*OUT_OF_MEMORY, "CUDA failure 35: CUDA driver version is insufficient"])
def test_the_command_line_ends_with_status_4_and_says_what_to_do(text, capsys):
    from mopt.cli.errors import status_of

    error = device_failure(RuntimeError(text))
    assert status_of(error) == 4
    told = capsys.readouterr().err
    assert told.startswith(f"error: {error}") and f"help: {error.help}" in told


def test_the_real_libraries_of_this_machine_are_asked():
    """No fakes: on a machine without a driver, that is what is told."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        assert "libcuda.so.1" in provider_problem("cuda").reason
    else:
        pytest.skip("there is a driver here")
