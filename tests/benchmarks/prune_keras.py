"""Keras networks of the pruning benchmark: Keras's own where it has one, with random weights."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def residual() -> keras.Model:
    """ResNet-18, as in `prune_networks.py`."""
    keras.utils.set_random_seed(0)
    image = keras.Input((128, 128, 3), name="image")

    def conv(x: Any, width: int, kernel: int, stride: int = 1) -> Any:
        x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    x = layers.MaxPooling2D(3, 2, "same")(layers.ReLU()(conv(image, 64, 7, 2)))
    for width, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        shortcut = x if x.shape[-1] == width else conv(x, width, 1, stride)
        inner = conv(layers.ReLU()(conv(x, width, 3, stride)), width, 3)
        x = layers.ReLU()(layers.Add()([shortcut, inner]))
    return keras.Model(image, layers.Dense(1000)(layers.GlobalAveragePooling2D()(x)))


def concatenating() -> keras.Model:
    """Keras's DenseNet, with blocks of 4, 6, 6 and 4 layers."""
    from keras.src.applications.densenet import DenseNet

    keras.utils.set_random_seed(0)
    return DenseNet([4, 6, 6, 4], weights=None, input_shape=(128, 128, 3), classifier_activation=None)


def depthwise() -> keras.Model:
    """MobileNetV2 as Keras ships it."""
    keras.utils.set_random_seed(0)
    return keras.applications.MobileNetV2(weights=None, input_shape=(128, 128, 3), classifier_activation=None)


def _conv(x: Any, width: int, kernel: int = 3, stride: int = 1) -> Any:
    x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
    return layers.Activation("silu")(layers.BatchNormalization()(x))


def _csp(x: Any, width: int, depth: int, *, shortcut: bool) -> Any:
    x = _conv(x, width, 1)
    parts = [x[..., : width // 2], x[..., width // 2 :]]
    for _ in range(depth):
        inner = _conv(_conv(parts[-1], width // 2), width // 2)
        parts.append(layers.Add()([inner, parts[-1]]) if shortcut else inner)
    return _conv(layers.Concatenate()(parts), width, 1)


def detector(width: int = 24) -> keras.Model:
    """CSP blocks, spatial pooling, and a neck that upsamples and concatenates: `prune_networks.Yolo`."""
    keras.utils.set_random_seed(0)
    w, image = width, keras.Input((128, 128, 3), name="image")
    x = _csp(_conv(_conv(image, w, 3, 2), 2 * w, 3, 2), 2 * w, 1, shortcut=True)
    x = _csp(_conv(x, 4 * w, 3, 2), 4 * w, 2, shortcut=True)
    fine = _csp(_conv(x, 8 * w, 3, 2), 8 * w, 2, shortcut=True)
    pooled = [_conv(_csp(_conv(fine, 16 * w, 3, 2), 16 * w, 1, shortcut=True), 8 * w, 1)]
    for _ in range(3):
        pooled.append(layers.MaxPooling2D(5, 1, "same")(pooled[-1]))
    coarse = _conv(layers.Concatenate()(pooled), 16 * w, 1)
    fine = _csp(layers.Concatenate()([layers.UpSampling2D()(coarse), fine]), 8 * w, 1, shortcut=False)
    last = _csp(layers.Concatenate()([_conv(fine, 8 * w, 3, 2), coarse]), 16 * w, 1, shortcut=False)
    return keras.Model(image, [layers.Conv2D(84, 1)(_conv(x, 4 * w)) for x in (fine, last)])


class Places(layers.Layer):  # type: ignore[misc]
    """Add a learnt vector for each place."""

    def build(self, shape: tuple[int, ...]) -> None:
        self.vectors = self.add_weight(shape=shape[1:], initializer="uniform", name="vectors")

    def call(self, x: Any) -> Any:
        return x + self.vectors


def bert(width: int = 256, heads: int = 8, depth: int = 4) -> keras.Model:
    """An encoder as BERT has it, of Keras's own attention; i32[N, 64] → f32[N, 64, width]."""
    keras.utils.set_random_seed(0)
    ids = keras.Input((64,), dtype="int32", name="ids")
    x = layers.LayerNormalization()(Places()(layers.Embedding(1000, width)(ids)))
    for _ in range(depth):
        attended = layers.MultiHeadAttention(heads, width // heads)(x, x)
        x = layers.LayerNormalization()(layers.Add()([x, attended]))
        inner = layers.Dense(width)(layers.Dense(4 * width, activation="gelu")(x))
        x = layers.LayerNormalization()(layers.Add()([x, inner]))
    return keras.Model(ids, x)
