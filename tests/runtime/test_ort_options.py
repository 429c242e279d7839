"""Options of the GPU providers, and where nodes run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mopt.ir import Module, load
from mopt.runtime.contract import TargetError
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_options import GpuOptions
from mopt.runtime.ort_placement import Placed, Placement, placement
from mopt.runtime.ort_target import OrtTarget
from mopt.values import ByteSize, Location


def test_what_cuda_is_told():
    found = GpuOptions(cuda_graph=True, layout="nhwc", search="heuristic", memory=1 << 30).settings("cuda", 1234)
    assert found == {
        "cuda": {
            "use_tf32": "0", "prefer_nhwc": "1", "cudnn_conv_algo_search": "HEURISTIC",
            "cudnn_conv_use_max_workspace": "1", "gpu_mem_limit": str(1 << 30), "user_compute_stream": "1234",
            "enable_cuda_graph": "1",
        }
    }  # fmt: skip


def test_what_tensorrt_is_told():
    found = GpuOptions(cuda_graph=True, tf32=True, cache="engines", extra={"trt_dla_enable": "1"}).settings("tensorrt")
    assert found["tensorrt"] == {
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": "engines", "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "engines", "trt_cuda_graph_enable": "1", "trt_dla_enable": "1",
    }  # fmt: skip
    assert found["cuda"]["use_tf32"] == "1"
    assert "enable_cuda_graph" not in found["cuda"] and "trt_dla_enable" not in found["cuda"]


def test_no_flag_of_the_builder_decides_precision():
    for provider in ("cuda", "tensorrt"):
        for options in GpuOptions(cuda_graph=True, tf32=False, cache="x").settings(provider).values():
            assert not any("fp16" in name or "int8" in name or "bf16" in name for name in options)


def test_users_words_win():
    assert GpuOptions(extra={"use_tf32": "1"}).settings("cuda")["cuda"]["use_tf32"] == "1"
    assert GpuOptions(extra={"a": "1"}).settings("cpu") == {"cpu": {"a": "1"}}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"cuda_graph": True, "tf32": True}, "`cuda_graph`, `tf32`"),
        ({"layout": "nhwc"}, "`layout`"),
        ({"memory": ByteSize(1)}, "`memory`"),
        ({"provider": "cuda", "cache": "engines"}, "`cache`: not with `provider=cuda`"),
    ],
)
def test_options_that_the_provider_has_not_got_are_refused(options, named):
    with pytest.raises(ValueError, match=named):
        OrtTarget(**options)


def test_a_targets_options_reach_the_session(monkeypatch, cnn: Module, tmp_path):
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    def session(model, settings, *, providers, **options):
        seen.extend(providers)
        found = real(model, settings, providers=["CPUExecutionProvider"], **options)
        found.get_providers = lambda: [name for name, _ in providers]
        return found

    monkeypatch.setattr("mopt.runtime.ort.require", lambda provider: None)
    monkeypatch.setattr("mopt.runtime.trt.cuda_driver.CudaDriver", lambda: SimpleNamespace(stream=99))
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    target = OrtTarget(provider="cuda", cuda_graph=True, provider_options={"do_copy_in_default_stream": "0"})
    target.open(target.emit(cnn, tmp_path))
    (name, options), (last, _) = seen
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["enable_cuda_graph"] == "1" and options["user_compute_stream"] == "99"
    assert options["do_copy_in_default_stream"] == "0"


def test_entries_of_a_session_reach_it(cnn: Module, tmp_path):
    artifact = OrtTarget().emit(cnn, tmp_path)
    OrtTarget(session_options={"session.load_model_format": "ONNX"}).open(artifact).close()
    with pytest.raises(TargetError, match="ORT"):
        OrtTarget(session_options={"session.load_model_format": "ORT"}).open(artifact)
    with pytest.raises(TargetError, match="refuses the session option ``: Config key is empty"):
        OrtTarget(session_options={"": "1"}).open(artifact)


def test_nodes_are_told_where_they_run():
    path = Location("pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx").resolve()
    found = OrtRunner(path).placement
    assert {node.provider for node in found.nodes} == {"CPUExecutionProvider"}
    assert found.elsewhere == () and found.told() == ""
    names = {node.name for node in load(path).graph}
    assert len(found.nodes) > 100 and sum(node.node in names for node in found.nodes) > 0.9 * len(found.nodes)
    assert placement(SimpleNamespace(), "CPUExecutionProvider") is None, "an onnxruntime that does not tell"


def test_nodes_that_fell_back_are_counted_and_named():
    nodes = [Placed(f"n{at}", "Conv", "CUDAExecutionProvider") for at in range(8)]
    left = [Placed("shape", "NonZero", "CPUExecutionProvider"), Placed("top", "TopK", "CPUExecutionProvider")]
    found = Placement("TensorrtExecutionProvider", (*nodes[:6], *left)).told(shown=3)
    assert found.startswith("8 of 8 nodes do not run on Tensorrt (2 on CPU, 6 on CUDA): 6 Conv, 1 NonZero")
    found = Placement("CUDAExecutionProvider", (*nodes, *left))
    assert found.told() == ("2 of 10 nodes do not run on CUDA (2 on CPU): 1 NonZero, 1 TopK: `shape`, `top`")
    assert found.to_json()["elsewhere"][0] == {
        "node": "shape",
        "operator": "NonZero",
        "provider": "CPUExecutionProvider",
    }
