"""`tune` on models of installed packages, that nobody made for training: they learn a few samples by heart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from mopt.ir import load, verify
from mopt.passes.tune.tune import Tune
from mopt.runtime.judge.losses import CrossEntropy, Ctc
from mopt.values import DataRef, LossRef


def packaged(package, inner):
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed (see tests/models.txt)")
    return load(Path(spec.submodule_search_locations[0]) / inner)


def tuned(module, context, samples, loss, **options):
    made = context(losses={"mine": loss}, train=samples)
    operation = Tune(DataRef("lines", "train"), LossRef("mine"), schedule="constant", device="cpu", **options)
    return operation.run(module, made)


@pytest.mark.slow
def test_a_text_recogniser_from_paddle(context):
    """PP-OCRv4: weights in `Constant` nodes, 6,625 classes as probabilities, the blank first, any width."""
    module = packaged("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")
    name, rng = module.inputs[0].name, np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 3, 48, 64)).astype(np.float32)
    samples = [{name: image, "target": label} for image, label in zip(images, ([5, 9, 5], [77, 3]), strict=True)]
    result = tuned(module, context, samples, Ctc(kind="probabilities"), steps=6, batch=2, rate=3e-4)
    losses = [loss for _, loss in result.notes[0].figures["loss"]]
    assert losses[-1] < 0.9 * losses[0], losses
    assert not verify(result.module)


@pytest.mark.slow
def test_a_classifier_from_paddle_trains_its_head_alone(context):
    module = packaged("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    before = {weight.name: weight.numpy().copy() for weight in module.weights()}
    name, rng = module.inputs[0].name, np.random.default_rng(0)
    head = next(node for node in reversed(list(module.nodes())) if node.op_type in ("Gemm", "MatMul"))
    samples = [{name: rng.uniform(-1, 1, (3, 48, 192)).astype(np.float32), "target": number % 2} for number in range(4)]
    loss = CrossEntropy(kind="probabilities")
    result = tuned(module, context, samples, loss, steps=6, batch=4, rate=1e-2, only=(head.name,), batchnorm="freeze")
    losses = [loss for _, loss in result.notes[0].figures["loss"]]
    assert losses[-1] < losses[0]
    changed = [w for w in result.module.weights() if not np.array_equal(before[w.name], w.numpy())]
    assert changed
    assert all(node.name == head.name for weight in changed for node, _ in weight.users)
