"""Depthwise convolutions refitted: a regression of its own for each channel, all of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.ir.weights import Weight
from mopt.passes.prune.correct_bias import add_bias
from mopt.passes.prune.correct_layers import Array, Arrays, Kept, Rows, lessened, some, windows
from mopt.passes.prune.correct_solve import RIDGES, Fit, Real
from mopt.rewrite.attributes import integer, text
from mopt.rewrite.constants import stored_tensor
from numpy.typing import NDArray


class Depthwise:
    """A Conv with a group for each channel, kernel [C, 1, places …]. For the arguments see `Product`."""

    def __init__(self, module: Module, node: ir.Node, weight: Weight, target: str, kept: Kept) -> None:
        self._module, self._node, self._weight, self._target, self._kept = module, node, weight, target, kept

    @property
    def name(self) -> str:
        """The node's name."""
        return self._node.name or ""

    @property
    def features(self) -> int:
        """Places of the kernel."""
        return self._weight.size // self._weight.shape[0]

    @property
    def smaller(self) -> tuple[str, ...]:
        """The layer's input and the target."""
        data = self._node.inputs[0]
        return (data.name if data is not None and data.name else "", self._target)

    @property
    def original(self) -> tuple[str, ...]:
        """The target."""
        return (self._target,)

    def rows(self, smaller: Arrays, original: Arrays, most: int, random: np.random.Generator) -> Rows:
        """Return rows: places of the output, x [rows, C, places of the kernel]."""
        data, now = (smaller[name] for name in self.smaller)
        wanted = lessened(original[self._target], self._target, self._kept)
        seen = windows(self._node, data, self._weight.shape[2:])
        wanted, now = np.moveaxis(wanted, 1, -1), np.moveaxis(now, 1, -1)
        places = wanted.shape[:-1]
        at = np.unravel_index(some(int(np.prod(places)), most, random), places)
        x = seen[at].reshape(len(at[0]), wanted.shape[-1], -1)
        return Rows(x, wanted[at] - now[at], wanted[at])

    def change(self, kernel: Array | None, bias: Array) -> None:
        """Add to kernel [C, places] and biases [C] in the module."""
        if kernel is not None:
            old = self._weight.numpy()
            self._weight.replace((old + kernel.reshape(old.shape)).astype(old.dtype))
        if np.any(bias):
            add_bias(self._module, self._node, bias)


def depthwise(
    module: Module, node: ir.Node, weights: Mapping[ir.Value, Weight], target: str, kept: Kept
) -> Depthwise | None:
    """Return a node as a depthwise layer, or None where it is none."""
    if node.domain != "" or node.op_type != "Conv" or integer(node, "group", 1) == 1:
        return None
    data, kernel = node.inputs[0], node.inputs[1]
    weight = weights.get(kernel) if kernel is not None else None
    if data is None or weight is None or len(weight.users) != 1 or stored_tensor(data) is not None:
        return None
    alone = weight.shape[1] == 1 and weight.shape[0] == integer(node, "group", 1)
    if not alone or text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID", ""):
        return None
    return Depthwise(module, node, weight, target, kept)


class _Sums:
    """Sums over rows for each channel: of features x, of what is missing y, and of their products."""

    def __init__(self, features: int, channels: int) -> None:
        self.rows = 0
        self.x, self.y = np.zeros((channels, features)), np.zeros(channels)
        self.xx, self.xy = np.zeros((channels, features, features)), np.zeros((channels, features))
        self.yy, self.wanted, self.wanted_square = np.zeros(channels), np.zeros(channels), np.zeros(channels)

    def add(self, x: NDArray[Any], y: NDArray[Any], wanted: NDArray[Any]) -> None:
        by_channel = np.ascontiguousarray(x.transpose(1, 0, 2), np.float64)
        self.rows += len(x)
        self.x += by_channel.sum(axis=1)
        self.y += y.sum(axis=0, dtype=np.float64)
        self.xx += by_channel.transpose(0, 2, 1) @ by_channel
        self.xy += np.einsum("crf,rc->cf", by_channel, y)
        self.yy += np.square(y, dtype=np.float64).sum(axis=0)
        self.wanted += wanted.sum(axis=0, dtype=np.float64)
        self.wanted_square += np.square(wanted, dtype=np.float64).sum(axis=0)

    def merged(self, other: _Sums) -> _Sums:
        both = _Sums(self.x.shape[1], len(self.y))
        for name in vars(both):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both

    def error(self, kernel: Real, bias: Real) -> Real:
        """Return Σ(y - x·kernel - bias)² over the rows of each channel; kernel [C, F], bias [C]."""
        crossed = np.einsum("cf,cfg,cg->c", kernel, self.xx, kernel) - 2 * (kernel * self.xy).sum(axis=1)
        shifted = self.rows * bias**2 - 2 * bias * self.y + 2 * bias * (self.x * kernel).sum(axis=1)
        error: Real = self.yy + crossed + shifted
        return error

    def ridge(self, shares: Real) -> tuple[Real, Real]:
        """Return kernel and bias of each channel for its share; a share of infinity leaves the kernel as it is."""
        rows = max(self.rows, 1)
        xx = self.xx - self.x[:, :, None] * self.x[:, None, :] / rows
        xy = self.xy - self.x * self.y[:, None] / rows
        unit = np.trace(xx, axis1=1, axis2=2) / xx.shape[1]
        fits = np.isfinite(shares) & (unit > 0)
        penalty = np.where(fits, np.where(fits, shares, 0) * unit, 1.0)
        system = xx + penalty[:, None, None] * np.eye(xx.shape[1])
        kernel: Real = np.where(fits[:, None], np.linalg.solve(system, xy[:, :, None])[:, :, 0], 0.0)
        return kernel, (self.y - (self.x * kernel).sum(axis=1)) / rows


class Separate:
    """As `Regression`, with features, ridge and choice of its own for each channel.

    A channel that no change helps on the samples held out stays as it is.
    """

    def __init__(self, features: int, channels: int, *, kernel: bool) -> None:
        self._kernel = kernel
        self._parts = (_Sums(features, channels), _Sums(features, channels))

    def add(self, x: NDArray[Any], y: NDArray[Any], wanted: NDArray[Any], *, held_out: bool) -> None:
        """Take in rows: x [rows, C, F]; y, wanted [rows, C]."""
        self._parts[held_out].add(x, y, wanted)

    def fit(self) -> Fit:
        """Return the best change found, kernel [C, F] and bias [C]."""
        made, judge = self._parts
        every = made.merged(judge)
        judge = judge if judge.rows and made.rows else every
        channels = len(judge.y)
        none = np.zeros_like(judge.x)
        before = judge.error(none, np.zeros(channels))
        energy = float((judge.wanted_square - judge.wanted**2 / max(judge.rows, 1)).sum())
        best, choice = before, np.full(channels, -1.0)
        for share in (np.inf, *(RIDGES if self._kernel else ())):
            error = judge.error(*made.ridge(np.full(channels, share)))
            better = error < best
            best, choice = np.where(better, error, best), np.where(better, share, choice)
        changed = choice >= 0
        kernel, bias = every.ridge(np.where(changed, choice, np.inf))
        bias = np.where(changed, bias, 0.0)
        after = float(np.maximum(best, 0).sum())
        if not np.isfinite(after) or not changed.any():
            return Fit(None, np.zeros(channels), float(before.sum()), float(before.sum()), energy)
        return Fit(kernel if np.any(kernel) else None, bias, float(before.sum()), after, energy)
