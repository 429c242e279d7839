"""A Keras model run by Keras itself, eagerly: what speed-ups over the framework refer to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mopt.passes.convert import tf_convert
from mopt.passes.convert.keras_convert import load_keras

if TYPE_CHECKING:
    import numpy as np
    from mopt.passes.convert.keras_source import KerasSource


class KerasEager:
    """A model called as `model(x, training=False)`, on the CPU.

    Args:
        source: what a recipe names.
        threads: inside one operator of TensorFlow; it can be set once in a process.

    Raises:
        SourceError: it can't be loaded.
    """

    def __init__(self, source: KerasSource, threads: int = 1) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # a table is printed where TensorFlow would write its log
        tf_convert.start(0)
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        self._constant = tf.constant
        self._loaded = load_keras(source, lambda _: None)

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run once.

        Raises:
            SourceError: the model raises.
        """
        returned = self._loaded.call(*self._tensors(feeds))
        return {name: tensor.numpy() for name, tensor in returned.items()}

    def bound(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Callable[[], object]:
        """Return a function that calls the model on tensors that are there already."""
        tensors, call = self._tensors(feeds), self._loaded.call
        return lambda: call(*tensors)

    def _tensors(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
        return [self._constant(feeds[name]) for name in self._loaded.spec]
