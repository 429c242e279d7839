"""Sampling tensors of any number of axes at coordinates, by ONNX's rules (GridSample)."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

_CUBIC = -0.75


def sample(x: Tensor, grid: Tensor, mode: str, padding: str, corners: bool) -> Tensor:
    """Sample x at a grid.

    Args:
        x: [N, C, sizes…].
        grid: [N, output sizes…, axes], from -1 to 1, the last axis of x first.
        mode: `nearest`, `linear` or `cubic`.
        padding: what lies outside: `zeros`, the `border`, or a `reflection`.
        corners: whether ±1 are the centres of the outermost elements, or their outer edges.

    Returns:
        [N, C, output sizes…].
    """
    sizes = x.shape[2:]
    coordinates = []
    for axis, size in enumerate(sizes):
        at = grid[..., len(sizes) - 1 - axis]
        at = (at + 1) / 2 * (size - 1) if corners else ((at + 1) * size - 1) / 2
        at = at.round() if mode == "nearest" else at
        if padding == "border":
            at = at.clamp(0, size - 1)
        elif padding == "reflection":
            at = _reflected(at, *_edges(size, corners))
        coordinates.append(at)
    taps = [_taps(at, mode) for at in coordinates]
    total: Tensor | None = None
    for chosen in product(*taps):
        weight: Tensor | None = None
        for _, part in chosen:
            if part is not None:
                weight = part if weight is None else weight * part
        found = _pixels(x, [place for place, _ in chosen], padding, corners)
        part = found if weight is None else found * weight.unsqueeze(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def _edges(size: int, corners: bool) -> tuple[float, float]:
    return (0.0, size - 1.0) if corners else (-0.5, size - 0.5)


def _reflected(at: Tensor, low: float, high: float) -> Tensor:
    span = high - low
    away = torch.remainder(at - low, 2 * span)
    return low + torch.where(away > span, 2 * span - away, away)


def _taps(at: Tensor, mode: str) -> list[tuple[Tensor, Tensor | None]]:
    if mode == "nearest":
        return [(at.long(), None)]
    base = at.detach().floor()
    share, first = at - base, base.long()
    if mode == "linear":
        return [(first, 1 - share), (first + 1, share)]
    a = _CUBIC

    def far(d: Tensor) -> Tensor:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    def near(d: Tensor) -> Tensor:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    weights = [far(share + 1), near(share), near(1 - share), far(2 - share)]
    return [(first + step, weight) for step, weight in zip(range(-1, 3), weights, strict=True)]


def _pixels(x: Tensor, places: list[Tensor], padding: str, corners: bool) -> Tensor:
    index = torch.zeros_like(places[0])
    inside = torch.ones_like(places[0], dtype=torch.bool)
    for at, size in zip(places, x.shape[2:], strict=True):
        if padding == "zeros":
            inside = inside & (at >= 0) & (at < size)
        elif padding == "reflection":
            at = _reflected(at.double(), *_edges(size, corners)).long()
        index = index * size + at.clamp(0, size - 1)
    flat = index.flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
    found = x.flatten(2).gather(2, flat).reshape(*x.shape[:2], *index.shape[1:])
    return found * inside.unsqueeze(1) if padding == "zeros" else found
