"""The `ort` target: the file it writes, and that it runs where it says."""

from __future__ import annotations

import zlib

import numpy as np
import onnx
import pytest
from mopt.ir import Module
from mopt.ir.provenance import stamp_source
from mopt.runtime.contract import TargetError
from mopt.runtime.gpu import gpus
from mopt.runtime.inputs import seeded_inputs
from mopt.runtime.ort import OrtRunner
from mopt.runtime.ort_target import OrtTarget


def test_it_emits_a_valid_file_that_runs_like_the_module(cnn: Module, tmp_path):
    artifact = OrtTarget().emit(cnn, tmp_path)
    assert artifact.path == tmp_path / "model.onnx"
    assert artifact.files == (artifact.path,)
    onnx.checker.check_model(str(artifact.path), full_check=True)
    feeds = seeded_inputs(cnn, {"N": 3})
    expected = OrtRunner(cnn).run(feeds)["logits"]
    np.testing.assert_array_equal(OrtTarget().open(artifact).run(feeds)["logits"], expected)


def test_sizes_are_of_what_is_on_disk(cnn: Module, tmp_path):
    artifact = OrtTarget().emit(cnn, tmp_path)
    content = artifact.path.read_bytes()
    assert (artifact.bytes, artifact.compressed) == (len(content), len(zlib.compress(content, 6)))


def test_provenance_is_left_out_unless_asked_for(cnn: Module, tmp_path):
    stamp_source(cnn)
    for name, target, kept in (("plain", OrtTarget(), False), ("traced", OrtTarget(provenance=True), True)):
        (tmp_path / name).mkdir()
        path = target.emit(cnn, tmp_path / name).path
        assert (b"mopt.origins" in path.read_bytes()) is kept


def test_emitting_twice_gives_the_same_bytes(cnn: Module, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (OrtTarget().emit(cnn.clone(), tmp_path / name).path.read_bytes() for name in ("a", "b"))
    assert first == second


def test_the_cpu_is_always_there():
    found = OrtTarget().available()
    assert found.can_emit
    assert found.can_run
    assert set(found.versions) & {"onnxruntime", "onnxruntime-gpu"}


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_listed_provider_that_does_not_load_is_not_available(provider, cnn: Module, tmp_path):
    target = OrtTarget(provider=provider)
    found = target.available()
    assert (found.can_emit, found.can_run) == (True, False)
    assert any(word in found.reason for word in ("GPU", "driver", "provider"))
    assert "NVIDIA driver" in found.install
    artifact = target.emit(cnn, tmp_path)
    with pytest.raises(TargetError) as caught:
        target.open(artifact)
    assert caught.value.missing


def test_threads_and_level_reach_the_session(cnn: Module, tmp_path, monkeypatch):
    import onnxruntime

    seen = []
    real = onnxruntime.InferenceSession

    def spy(model, settings, providers, **options):
        seen.append((settings.intra_op_num_threads, settings.graph_optimization_level))
        return real(model, settings, providers=providers, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    target = OrtTarget(threads=2, optimize="none")
    target.open(target.emit(cnn, tmp_path))
    assert seen == [(2, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)]
