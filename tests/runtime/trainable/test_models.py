"""Outputs of the real models against onnxruntime's, at two sizes where these are dynamic; every weight trains."""

import numpy as np
import pytest
from mopt.runtime.ort import OrtRunner
from mopt.runtime.text_image import text_images
from mopt.runtime.trainable.runner import TrainableModule

torch = pytest.importorskip("torch")


def image(*shapes, name="x"):
    return tuple({name: shape} for shape in shapes)


SILERO = tuple({"input": (n, 576), "state": (2, n, 128), "sr": ()} for n in (1, 2))
PITCH = "serving_default_input_2:0"
# How many weights train, and the sizes to run at.
MODELS = {
    "rec_v4": (110, image((1, 3, 48, 96), (2, 3, 48, 64))),
    "det_v4": (123, image((1, 3, 64, 96), (2, 3, 32, 64))),
    "det_v3": (189, image((1, 3, 64, 96), (2, 3, 32, 64))),
    "cls": (143, image((1, 3, 48, 192), (2, 3, 48, 192))),
    "crnn_v2": (111, image((1, 3, 32, 100), (2, 3, 32, 64))),
    "silero": (30, SILERO),
    "silero_ifless": (30, SILERO),
    "silero_sequence": (14, tuple({"input": (t, 576), "h": (1, 1, 128), "c": (1, 1, 128)} for t in (1, 5))),
    "basic_pitch": (18, image((1, 43844, 1), name=PITCH)),
    "nsfw": (108, image((1, 224, 224, 3), name="input:0")),
}


def draw(module, shapes, seed):
    rng = np.random.default_rng(seed)
    made = {}
    for info in module.inputs:
        shape = shapes[info.name]
        if info.dtype == "i64":
            made[info.name] = np.array(16000)
        elif info.name == "x":  # detectors answer noise with zeros
            made[info.name] = text_images(shape, rng).astype(np.float32)
        else:
            made[info.name] = rng.standard_normal(shape).astype(np.float32)
    return made


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_onnxruntimes_and_every_weight_gets_a_gradient(name, packaged_module):
    module = packaged_module(name)
    count, sizes = MODELS[name]
    runner = TrainableModule(module, batch_norm="frozen").eval()
    reference = OrtRunner(module, optimize="none")
    for seed, shapes in enumerate(sizes):
        feeds = draw(module, shapes, seed)
        expected, actual = reference.run(feeds), runner.run(feeds)
        assert list(actual) == list(expected)
        for key, array in expected.items():
            assert actual[key].shape == array.shape and actual[key].dtype == array.dtype
            size = float(np.abs(array).max())
            assert size > 0, "an output of zeros proves nothing"
            # The detectors answer noise with almost nothing: one unit in the last place of what is behind a sigmoid.
            assert float(np.abs(actual[key] - array).max()) <= 2e-4 * size + 2e-7, key
    learned = {weight.name for weight in module.weights() if weight.is_parameter}
    assert {key for key, safe in runner.names.items() if safe in runner.readers} == learned
    assert len(learned) == count
    outputs = runner.train()({key: torch.from_numpy(array) for key, array in feeds.items()}).values()
    sum(tensor.square().mean() for tensor in outputs).backward()
    without = [key for key, parameter in runner.weights.named_parameters() if parameter.grad is None]
    # Silero holds one network for 16 kHz and one for 8 kHz, of which the sample rate takes one.
    assert len(without) == (15 if name in ("silero", "silero_ifless") else 0), without
    assert all(torch.isfinite(p.grad).all() for p in runner.weights.parameters() if p.grad is not None)
