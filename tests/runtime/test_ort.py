"""OrtRunner against onnxruntime itself, its refusals, and providers that are listed but do not load."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from mopt.ir import Module, save
from mopt.runtime.contract import RunError, TargetError
from mopt.runtime.gpu import gpus
from mopt.runtime.ort import OrtRunner, cast_feeds

IMAGE = np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 1, 8, 8)


def test_a_module_a_file_and_bytes_give_what_onnxruntime_gives(cnn: Module, tmp_path):
    (path,) = save(cnn, tmp_path / "m.onnx")
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = plain.run(["logits"], {"image": IMAGE})[0]
    assert np.ptp(expected) > 0.1
    for model in (cnn, path, path.read_bytes()):
        with OrtRunner(model) as runner:
            np.testing.assert_allclose(runner.run({"image": IMAGE})["logits"], expected, rtol=1e-5)


def test_ports_are_told_in_the_languages_words(cnn: Module):
    runner = OrtRunner(cnn)
    assert [(port.name, port.dtype, port.shape) for port in runner.inputs] == [("image", "f32", ("N", 1, 8, 8))]
    assert [(port.name, port.dtype, port.shape) for port in runner.outputs] == [("logits", "f32", ("N", 4))]


def test_large_modules_go_through_a_file_that_is_removed(cnn: Module, monkeypatch, tmp_path):
    monkeypatch.setattr("mopt.runtime.ort._IN_MEMORY_LIMIT", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with OrtRunner(cnn) as runner:
        assert list(tmp_path.rglob("*.onnx"))
        through_file = runner.run({"image": IMAGE})["logits"]
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    np.testing.assert_array_equal(through_file, OrtRunner(cnn).run({"image": IMAGE})["logits"])


def test_a_missing_input_is_named(cnn: Module):
    with pytest.raises(RunError, match="no value for input `image`"):
        OrtRunner(cnn).run({"picture": IMAGE})


def test_a_wrong_type_is_named(cnn: Module):
    with pytest.raises(RunError, match="`image` is f32, was given f64"):
        OrtRunner(cnn).run({"image": IMAGE.astype(np.float64)})


def test_a_wrong_shape_is_refused(cnn: Module):
    with pytest.raises(RunError, match="image"):
        OrtRunner(cnn).run({"image": IMAGE[:, :, :5]})


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12"], ids=["empty", "text", "truncated"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(TargetError, match="onnxruntime refuses the model") as caught:
        OrtRunner(path)
    assert not caught.value.missing


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here, so the provider may load")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_load_is_an_error_not_a_fallback(cnn: Module, provider):
    with pytest.raises(TargetError) as caught:
        OrtRunner(cnn, provider=provider)
    assert caught.value.missing
    assert "driver" in (caught.value.help or "")


def test_a_session_that_lost_its_provider_is_an_error(cnn: Module, monkeypatch):
    """onnxruntime drops a provider silently; what it then runs on is looked at, not assumed."""
    monkeypatch.setattr("mopt.runtime.ort.require", lambda provider: None)
    monkeypatch.setattr("mopt.runtime.trt.cuda_driver.CudaDriver", lambda: SimpleNamespace(stream=7))
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda model, settings, providers, **_: real(model, settings, ["CPUExecutionProvider"]),
    )
    with pytest.raises(TargetError, match="could not start its cuda provider") as caught:
        OrtRunner(cnn, provider="cuda")
    assert caught.value.missing


def test_feeds_are_cast_to_the_interface(cnn: Module):
    cast = cast_feeds({"image": IMAGE.astype(np.float64), "other": IMAGE}, OrtRunner(cnn).inputs)
    assert list(cast) == ["image"]
    assert cast["image"].dtype == np.float32
