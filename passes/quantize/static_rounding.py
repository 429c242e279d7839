"""Rounding weights so that the error of a layer's results is least, not that of each weight.

GPTQ (Frantar et al. 2023, arXiv:2210.17323) for convolutions, too: a convolution is a product with the patches of its
input, one for each group. Weights are rounded one input after the other, the largest second moment first; what the
later ones can make up for an error follows from the Cholesky factor of H⁻¹, H = Σ patchᵀ patch over the samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from mopt.ir import Module
from mopt.passes.contract import Context, Note
from mopt.passes.quantize.static_constants import Constants
from mopt.passes.quantize.static_observe import observe
from mopt.passes.quantize.static_patches import Patches, patches_of
from mopt.passes.quantize.static_units import Unit
from mopt.passes.quantize.static_weights import output_axis
from mopt.passes.quantize.symmetric import LEVELS
from mopt.rewrite.constants import constant_array
from mopt.runtime.contract import Split
from numpy.typing import NDArray

Reals = NDArray[np.float64]

_DAMP: Final = 0.01
"""Added to H's diagonal, as a share of its mean: inputs that hardly vary would make the inverse explode."""
_WIDEST: Final = 2560
"""Inputs of one output beyond which H, of this many squared, is not worth its memory and time."""
_BLOCK: Final = 128


@dataclass(frozen=True)
class Rounded:
    """A weight that lies on its grid, and the bias that makes up for what that changes on average; None for none."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None = None


def round_weights(
    module: Module, units: Sequence[Unit], split: Split, context: Context, *, per_channel: bool, correct: bool = True
) -> Note:
    """Replace the weights of convolutions and products by ones that lie on the grid quantisation will choose.

    See `rounded_weights`; a weight that several nodes read, and one whose H would be too large, is left to rounding to
    the nearest.
    """
    return put(module, units, rounded_weights(module, units, split, context, per_channel=per_channel, correct=correct))


def put(module: Module, units: Sequence[Unit], rounded: Mapping[str, Rounded]) -> Note:
    """Put the rounded weights of these units into the module; return what to say of it."""
    constants, count = Constants(module), 0
    for unit in units:
        found = rounded.get(unit.name)
        if found is None:
            continue
        count += 1
        constants.replace(unit.node, 1, found.weight)
        if found.bias is None:
            continue
        if len(unit.node.inputs) > 2 and unit.node.inputs[2] is not None:
            constants.replace(unit.node, 2, found.bias)
        else:
            unit.node.resize_inputs(3)
            unit.node.replace_input_with(2, constants.add(found.bias, f"{unit.name}_bias"))
    module.touch()
    others = sum(unit.weight is not None for unit in units) - count
    rest = f", {others} to the nearest" if others else ""
    return Note(f"rounded the weights of {count} layers by the error of their results{rest}")


def rounded_weights(
    module: Module, units: Sequence[Unit], split: Split, context: Context, *, per_channel: bool, correct: bool
) -> dict[str, Rounded]:
    """Return weights rounded by the error of their layers' results, by unit.

    Args:
        correct: the mean of that error goes into the bias, so that rounding only has to mind what varies.
    """
    chosen: dict[str, tuple[Unit, Patches]] = {}
    for unit in units:
        patches = patches_of(unit) if unit.weight is not None else None
        weight = unit.node.inputs[1] if patches is not None else None
        if patches is not None and weight is not None and len(weight.uses()) == 1 and patches.size <= _WIDEST:
            chosen[unit.name] = (unit, patches)
    moments: dict[str, _Moments] = {}

    def visit(arrays: Any) -> None:
        for name, (unit, patches) in chosen.items():
            moments.setdefault(name, _Moments()).add(patches.rows(arrays[unit.inputs[0].name or ""], len(split)))

    watched = list(dict.fromkeys(unit.inputs[0].name or "" for unit, _ in chosen.values()))
    observe(module, watched, split, context, label="measure second moments", visit=visit)
    found = {}
    with context.progress("round weights", len(chosen)) as progress:
        for name, (unit, patches) in chosen.items():
            assert unit.weight is not None
            seen, centre = moments.pop(name), correct and unit.kind != "matmul"
            rows = patches.split(unit.weight)
            scale = _scale(unit.weight, output_axis(unit) if per_channel else None)
            scales = patches.split(np.broadcast_to(scale, unit.weight.shape))[:, :, :1]
            steps = gptq(rows, scales, seen.covariance() if centre else seen.squares)
            bias = _bias(unit, steps * scales - rows, seen.mean()) if centre else None
            found[name] = Rounded(patches.join(steps * scales, unit.weight.shape).astype(np.float32), bias)
            progress.advance()
    return found


class _Moments:
    """Sums over the rows that a unit read: f64[groups, size] and, of products in pairs, f64[groups, size, size]."""

    def __init__(self) -> None:
        self._count, self._sums = 0, np.zeros((1, 1))
        self.squares: Reals = np.zeros((1, 1, 1))

    def add(self, rows: NDArray[Any]) -> None:
        self._count += rows.shape[1]
        self._sums = self._sums + rows.sum(axis=1, dtype=np.float64)
        self.squares = self.squares + np.matmul(rows.transpose(0, 2, 1), rows).astype(np.float64)

    def mean(self) -> Reals:
        return self._sums / max(self._count, 1)

    def covariance(self) -> Reals:
        mean = self.mean()
        return self.squares - self._count * mean[:, :, None] * mean[:, None, :]


def _bias(unit: Unit, error: Reals, mean: Reals) -> NDArray[np.float32] | None:
    """Return a unit's bias less what the weights' error adds on average."""
    value = unit.node.inputs[2] if len(unit.node.inputs) > 2 else None
    old = constant_array(value)
    if value is not None and old is None:
        return None
    change = np.einsum("gos,gs->go", error, mean).reshape(-1)
    return np.asarray((0 if old is None else old) - change, np.float32)


def gptq(rows: Reals, scales: Reals, moments: Reals) -> Reals:
    """Round W / scales to whole numbers of -127 … 127.

    The largest weight of a grid stays the largest step, so that the grid stays what it was; zeros stay zeros.

    Args:
        rows: W, f64[groups, outputs, inputs].
        scales: the grid's steps, f64[groups, outputs, 1].
        moments: H, f64[groups, inputs, inputs].
    """
    size = rows.shape[2]
    # The order is that of the groups' mean: each group in its own would cost a gather a column.
    order = np.argsort(-np.einsum("gii->i", moments), kind="stable")
    factor = _inverse_factor(moments[:, order][:, :, order])
    left = rows[:, :, order].astype(np.float64)
    original = left.copy()
    steps = np.zeros_like(left)
    for start in range(0, size, _BLOCK):
        end = min(start + _BLOCK, size)
        errors = np.zeros((*left.shape[:2], end - start))
        for at in range(start, end):
            found = np.clip(np.rint(left[:, :, at] / scales[:, :, 0]), -LEVELS, LEVELS)
            plain = np.rint(original[:, :, at] / scales[:, :, 0])
            found = np.where((np.abs(plain) >= LEVELS) | (original[:, :, at] == 0), plain, found)
            steps[:, :, at] = found
            error = (left[:, :, at] - found * scales[:, :, 0]) / factor[:, None, at, at]
            errors[:, :, at - start] = error
            left[:, :, at + 1 : end] -= error[:, :, None] * factor[:, None, at, at + 1 : end]
        left[:, :, end:] -= np.matmul(errors, factor[:, start:end, end:])
    back = np.empty_like(steps)
    back[:, :, order] = steps
    return back


def _scale(weight: NDArray[Any], axis: int | None) -> NDArray[np.float32]:
    """Return the steps `symmetric.quantize` will choose, of the weight's rank."""
    others = tuple(other for other in range(weight.ndim) if other != axis)
    peak = np.max(np.abs(weight), axis=others, keepdims=True).astype(np.float32)
    scale = np.where(peak > 0, peak / np.float32(LEVELS), np.float32(1)).astype(np.float32)
    return np.maximum(scale, np.finfo(np.float32).tiny)


def _inverse_factor(moments: Reals) -> Reals:
    """Return the upper Cholesky factor of the damped inverse of each H."""
    size = moments.shape[1]
    damp = _DAMP * np.einsum("gii->g", moments) / size
    damp = np.where(damp > 0, damp, 1.0)
    inverse = np.linalg.inv(moments + damp[:, None, None] * np.eye(size))
    return np.asarray(np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2).transpose(0, 2, 1), np.float64)
