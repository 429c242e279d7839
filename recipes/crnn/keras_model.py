"""The CRNN of `model.py` in Keras: the same layers, taking and giving the same arrays."""

from __future__ import annotations

import keras
from keras import layers


def crnn(channels: tuple[int, int, int] = (24, 48, 64), hidden: int = 48) -> keras.Model:
    """f32[N, 1, 16, 112] → f32[N, 28, 11] logits, class 0 being the CTC blank.

    The image arrives channels first, as PyTorch has it, so that one data set serves both networks.
    """
    image = keras.Input((1, 16, 112), name="image")
    x = layers.Permute((2, 3, 1))(image)
    for index, (width, pool) in enumerate(zip(channels, ((2, 2), (2, 2), (4, 1)), strict=True), 1):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(epsilon=1e-5, name=f"norm{index}")(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D(pool)(x)
    x = layers.Reshape((28, channels[-1]))(x)
    x = layers.Bidirectional(layers.LSTM(hidden, return_sequences=True), name="rnn")(x)
    return keras.Model(image, layers.Dense(11, name="head")(x), name="crnn")
