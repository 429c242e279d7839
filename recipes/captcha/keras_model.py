"""The CRNN of `model.py` in Keras: the same layers with the same weights, taking and giving the same arrays."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

WEIGHTS = Path(__file__).with_name("weights.safetensors")
POOLS = ((2, 2), (2, 2), (2, 1), (2, 1))


def crnn(channels: tuple[int, int, int, int] = (24, 48, 64, 96), hidden: int = 96) -> keras.Model:
    """f32[N, 1, 48, 160] → f32[N, 40, 20] logits, class 0 being the CTC blank, untrained.

    The image arrives channels first, as PyTorch has it, so that one data set serves both networks.
    """
    image = keras.Input((1, 48, 160), name="image")
    x = layers.Permute((2, 3, 1))(image)
    for index, (width, pool) in enumerate(zip(channels, POOLS, strict=True), 1):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(epsilon=1e-5, name=f"norm{index}")(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D(pool)(x)
    x = layers.Permute((2, 3, 1))(x)  # [N, T, C, 3]: features in PyTorch's order
    x = layers.Reshape((40, 3 * channels[-1]))(x)
    for index in (1, 2):
        x = layers.Bidirectional(layers.LSTM(hidden, return_sequences=True), name=f"rnn{index}")(x)
    return keras.Model(image, layers.Dense(20, name="head")(x), name="crnn")


def trained() -> keras.Model:
    """The network with the weights that `train.py` found for PyTorch."""
    from safetensors.numpy import load_file

    model = crnn()
    state: dict[str, NDArray[np.float32]] = {
        name: array.astype(np.float32) for name, array in load_file(WEIGHTS).items()
    }
    for index in (1, 2, 3, 4):
        model.get_layer(f"conv{index}").set_weights([state[f"conv{index}.0.weight"].transpose(2, 3, 1, 0)])
        norm = [state[f"conv{index}.1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
        model.get_layer(f"norm{index}").set_weights(norm)
    for index in (1, 2):
        weights: list[NDArray[np.float32]] = []
        for suffix in ("l0", "l0_reverse"):
            weights += [state[f"rnn{index}.weight_ih_{suffix}"].T, state[f"rnn{index}.weight_hh_{suffix}"].T]
            weights.append(state[f"rnn{index}.bias_ih_{suffix}"] + state[f"rnn{index}.bias_hh_{suffix}"])
        model.get_layer(f"rnn{index}").set_weights(weights)
    model.get_layer("head").set_weights([state["head.weight"].T, state["head.bias"]])
    return model
