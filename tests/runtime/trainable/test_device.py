"""On an accelerator, shapes and indices stay in the CPU's memory, and everything else moves.

There need not be one: torch's `meta` device refuses what an accelerator refuses (tensors of two devices in one
operator) and, having no contents, any look at what a tensor holds: which on an accelerator would make the CPU wait.
"""

import numpy as np
import pytest
from mopt.runtime.trainable.runner import TrainableModule

torch = pytest.importorskip("torch")

MODELS = {
    "rec_v4": {"x": (2, 3, 48, 96)},
    "crnn_v2": {"x": (2, 3, 32, 64)},
    "det_v4": {"x": (1, 3, 64, 96)},
    "silero_sequence": {"input": (3, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
    "basic_pitch": {"serving_default_input_2:0": (1, 43844, 1)},
}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_mixes_devices_or_waits(name, packaged_module):
    runner = TrainableModule(packaged_module(name)).train()
    feeds = {key: torch.from_numpy(np.zeros(shape, np.float32)) for key, shape in MODELS[name].items()}
    expected = {key: tensor.shape for key, tensor in runner(feeds).items()}
    runner.to("meta")
    found = runner({key: tensor.to("meta") for key, tensor in feeds.items()})
    assert {key: tensor.shape for key, tensor in found.items()} == expected
    assert all(tensor.device.type == "meta" for tensor in found.values())
    sum(tensor.square().mean() for tensor in found.values()).backward()
    assert any(parameter.grad is not None for parameter in runner.parameters())
