"""Running statistics of a BatchNormalization, moved by as much as cutting moved what the calibration samples show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from mopt.ir.weights import Weight
from mopt.passes.prune.correct_layers import Array, Arrays, Kept, lessened


class Norm:
    """A batch normalisation of the smaller model.

    Mean and variance are not replaced by the calibration samples' own, which are few: they are moved so that on these
    samples what comes out has the mean and the variance that it had in the original model.
    """

    def __init__(self, node: ir.Node, mean: Weight, variance: Weight, kept: Kept) -> None:
        self._mean, self._variance, self._kept = mean, variance, kept
        data = node.inputs[0]
        self.data = data.name if data is not None and data.name else ""
        self._now, self._wanted = [np.zeros(0)] * 3, [np.zeros(0)] * 3

    def add(self, smaller: Arrays, original: Arrays) -> None:
        """Take in one batch of both models' inputs [N, C, …]."""
        wanted = lessened(original[self.data], self.data, self._kept)
        for name, array in (("_now", smaller[self.data]), ("_wanted", wanted)):
            sums = _sums(array)
            old = getattr(self, name)
            setattr(self, name, [a + b if a.size else b for a, b in zip(old, sums, strict=True)])

    def change(self) -> bool:
        """Move the statistics; say whether they changed."""
        if not self._now[0].size or not self._now[0][0]:
            return False
        (now_mean, now_variance), (mean, variance) = _moments(self._now), _moments(self._wanted)
        stored = self._mean.numpy()
        # A channel that shows no variance says nothing of the ratio.
        seen = (variance > 1e-12) & (now_variance > 1e-12)
        ratio = np.divide(now_variance, variance, out=np.ones_like(variance), where=seen)
        scaled = self._variance.numpy() * ratio
        # What comes out has the mean it had: (now_mean - shifted) / √(v·ratio) = (mean - stored) / √v.
        shifted = now_mean - (mean - stored) * np.sqrt(ratio)
        if not (np.isfinite(shifted).all() and np.isfinite(scaled).all()):
            return False
        self._mean.replace(shifted.astype(stored.dtype))
        self._variance.replace(scaled.astype(stored.dtype))
        return True


def norm(node: ir.Node, weights: Mapping[ir.Value, Weight], kept: Kept) -> Norm | None:
    """Return a batch normalisation whose statistics are its own constants; None for anything else."""
    if node.op_type != "BatchNormalization" or node.domain != "" or len(node.inputs) != 5 or len(node.outputs) > 1:
        return None
    mean, variance = (weights.get(value) if value is not None else None for value in node.inputs[3:])
    if mean is None or variance is None or len(mean.users) != 1 or len(variance.users) != 1:
        return None
    return Norm(node, mean, variance, kept)


def _sums(array: Array) -> list[Array]:
    axes = (0, *range(2, array.ndim))
    wide = array.astype(np.float64)
    count = np.full(array.shape[1], array.size / max(array.shape[1], 1))
    return [count, wide.sum(axis=axes), np.square(wide).sum(axis=axes)]


def _moments(sums: list[Array]) -> tuple[Array, Array]:
    count, first, second = sums
    mean = first / count
    return mean, np.maximum(second / count - np.square(mean), 0)
