"""How well lines were found (`hmean`). Reading and turning are judged by the built-in metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 0.3
UNCLIP = 1.5
"""DB predicts shrunken lines; PaddleOCR grows each by `area × 1.5 / perimeter` again (Liao et al. 2020)."""


class Hmean:
    """Harmonic mean of recall and precision of the boxes found, one matching another from IoU 0.5 on (ICDAR 2015).

    Reads the detector's probability map [N, 1, H, W]; targets are the boxes of each page, i64[lines, 4]. Text is
    level here, so boxes stand upright.
    """

    goal = "max"

    def __init__(self) -> None:
        self.matched = self.found = self.wanted = 0

    def update(self, outputs: Mapping[str, NDArray[Any]], targets: Sequence[NDArray[Any]]) -> None:
        (maps,) = outputs.values()
        for probability, wanted in zip(maps, targets, strict=True):
            found = boxes(probability[0])
            self.found += len(found)
            self.wanted += len(wanted)
            self.matched += matches(found, np.asarray(wanted))

    def compute(self) -> float:
        return 2 * self.matched / (self.found + self.wanted) if self.found + self.wanted else 0.0


def boxes(probability: NDArray[Any]) -> NDArray[np.float64]:
    """Read boxes off a probability map [H, W]: connected regions, unshrunk; f64[boxes, 4]."""
    from scipy import ndimage

    labels, _ = ndimage.label(probability > THRESHOLD)
    found = []
    for rows, columns in ndimage.find_objects(labels):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if min(height, width) < 3:
            continue
        grow = height * width * UNCLIP / (2 * (height + width))
        found.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
    return np.array(found, np.float64).reshape(-1, 4)


def matches(found: NDArray[np.float64], wanted: NDArray[Any], least: float = 0.5) -> int:
    """Count pairs of a found and a wanted box that overlap by at least `least`, best pairs first, each box once."""
    if not len(found) or not len(wanted):
        return 0
    low = np.maximum(found[:, None, :2], wanted[None, :, :2])
    high = np.minimum(found[:, None, 2:], wanted[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(group[:, 2:] - group[:, :2]).prod(-1) for group in (found, wanted)]
    overlap = shared / (areas[0][:, None] + areas[1][None, :] - shared)
    count = 0
    while overlap.size and overlap.max() >= least:
        first, second = np.unravel_index(overlap.argmax(), overlap.shape)
        overlap[first, :] = overlap[:, second] = 0
        count += 1
    return count
