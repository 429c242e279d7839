"""Small Keras models, in the styles people write them."""

import keras
from keras import layers


def recogniser(classes=5):
    image = keras.Input((16, None, 1), name="image")
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="conv2d")(image)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Activation("relu", name="act")(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="conv2d_1")(x)
    x = layers.MaxPooling2D((2, 2), name="pool")(x)
    x = layers.Permute((2, 1, 3), name="columns")(x)
    x = layers.Reshape((-1, 8 * 6), name="sequence")(x)
    x = layers.Bidirectional(layers.LSTM(7, return_sequences=True), name="reader")(x)
    x = layers.GRU(6, return_sequences=True, name="second")(x)
    return keras.Model(image, layers.Dense(classes, name="head")(x), name="recogniser")


def two_inputs():
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    joined = layers.Concatenate(name="join")([left, layers.Dense(4, name="turn")(right)])
    total = layers.Dense(3, activation="softmax", name="total")(joined)
    return keras.Model([left, right], {"total": total, "joined": joined})


def encoder():
    """A block as BERT has it: attention, and the exact GELU, which TensorFlow makes of Erfc."""
    x = keras.Input((6, 8), name="x")
    states = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)]))
    inner = layers.Dense(8)(layers.Dense(16, activation="gelu")(states))
    return keras.Model(x, layers.LayerNormalization()(layers.Add()([states, inner])), name="encoder")


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(5, activation="relu", name="first")
        self.last = layers.Dense(2, name="last")

    def call(self, x, training=False):
        return self.last(self.first(x))


class Custom(layers.Layer):
    def call(self, x):
        return x * 2


def nothing():
    return None


def fails():
    raise RuntimeError("no such luck")
