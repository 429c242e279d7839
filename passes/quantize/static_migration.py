"""How far to move channels' ranges from an activation into the weights that read it.

Channel c of x is multiplied by s_c where x is made, and the weights that read it are divided by it. With ranges r_c
and s_c = (R / r_c)^a, a = 0 changes nothing and a = 1 gives every channel of x the same range, at the cost of uneven
weights (Nagel et al. 2019; Xiao et al. 2022 call a the migration strength). a is chosen by what the rounding of x and
of the weights then adds to the products' results, predicted from calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

STRENGTHS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_HEADROOM: Final = 2.0
"""How far beyond what calibration saw a channel may reach before a Clip that it never met meets it."""
_MOST: Final = 256.0
"""A channel is scaled by no more: beyond, a nearly dead channel would be blown up for nothing."""


@dataclass(frozen=True)
class Reader:
    """Weights that read the channels: W as f64[groups, outputs, channels of a group, kernel]."""

    weight: Reals

    def noise(self, scale: Reals, step: float, power: Reals) -> float:
        """Predict the mean square of what rounding adds to the results, relative to the results' own.

        Args:
            scale: s, f64[C].
            step: the distance of neighbours on the grid of the scaled activation.
            power: mean square of each channel before scaling, f64[C].
        """
        groups, _, inner, kernel = self.weight.shape
        shape = (groups, 1, inner, 1)
        scaled = self.weight / scale.reshape(shape)
        moved = (power * scale**2).reshape(shape)
        result = float((scaled**2 * moved).sum()) or 1.0
        activation = step**2 / 12 * float((scaled**2).sum())
        steps = np.abs(scaled).max(axis=(2, 3), keepdims=True) / 127
        weights = float((steps**2 / 12 * moved.sum(axis=2, keepdims=True) * kernel).sum())
        return (activation + weights) / result


def choose(ranges: Reals, power: Reals, readers: Sequence[Reader], *, ceiling: float | None) -> tuple[Reals, float]:
    """Return (s, a): s f64[C], all ones where moving nothing is best.

    Args:
        ranges: the range of each channel, f64[C]; a channel without one keeps s = 1.
        ceiling: a Clip's upper end that every channel meets; s is then at least 1 and keeps each channel below it.
    """
    alive = ranges > 0
    if not alive.any():
        return np.ones_like(ranges), 0.0
    if ceiling is not None:
        limited = np.minimum(ranges * _HEADROOM, ceiling)
        target = ceiling
    else:
        limited = ranges
        target = float(np.exp(np.log(ranges[alive]).mean()))
    best, chosen = np.ones_like(ranges), 0.0
    least = np.inf
    for strength in STRENGTHS:
        scale = np.ones_like(ranges)
        scale[alive] = np.clip((target / limited[alive]) ** strength, 1 / _MOST, _MOST)
        step = float((limited * scale).max()) / 255
        found = sum(reader.noise(scale, step, power) for reader in readers)
        if found < least * (1 - 1e-6):
            least, best, chosen = found, scale, strength
    return best, chosen
