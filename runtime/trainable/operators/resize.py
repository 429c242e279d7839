"""Resize and Upsample: one axis after the other, or torch's own kernel where it computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import floor
from typing import Any

import numpy as np
import torch
from mopt.runtime.trainable.interpolation import Interpolation, Taps
from mopt.runtime.trainable.operator import Call, Compute, operator
from torch import Tensor
from torch.nn import functional

_MANY_TAPS = 4
"""Beyond so many taps one product with the whole matrix of weights is cheaper than adding them up."""
_TORCH_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@operator("Resize", host=(1, 2, 3))
def prepare_resize(call: Call) -> Compute:
    """All modes and coordinate transformations. Gradients go to the image only."""
    if call.opset < 11:
        return _upsample(call)
    rule = Interpolation(
        call.attribute("mode", "nearest"),
        call.attribute("coordinate_transformation_mode", "half_pixel"),
        call.attribute("nearest_mode", "round_prefer_floor"),
        call.attribute("cubic_coeff_a", -0.75),
        bool(call.attribute("exclude_outside", 0)),
        bool(call.attribute("antialias", 0)),
    )
    declared = call.attribute("axes")
    policy = call.attribute("keep_aspect_ratio_policy", "stretch")
    fill = call.attribute("extrapolation_value", 0.0)
    sizes_of, resizer = call.integers(3), _Resizer(rule, fill)
    scales_of, roi_of = _floats(call, 2), _floats(call, 1)

    def compute(x: Tensor, roi: Any = None, scales: Any = None, sizes: Any = None) -> Tensor:
        axes = [axis % x.dim() for axis in declared] if declared else list(range(x.dim()))
        wanted = sizes_of(sizes) if sizes is not None else None
        factors = list(scales_of(scales)) if not wanted else [n / x.shape[a] for a, n in zip(axes, wanted, strict=True)]
        if wanted and policy != "stretch":
            factor = min(factors) if policy == "not_larger" else max(factors)
            factors = [factor] * len(axes)
            wanted = [floor(factor * x.shape[axis] + 0.5) for axis in axes]
        counts = wanted or [floor(x.shape[axis] * factor) for axis, factor in zip(axes, factors, strict=True)]
        window = list(roi_of(roi)) if rule.transform == "tf_crop_and_resize" else [0.0] * len(axes) + [1.0] * len(axes)
        return resizer(x, axes, factors, counts, window)

    return compute


@operator("Upsample", host=(1,))
def prepare_upsample(call: Call) -> Compute:
    """What Resize was before operator set 10: asymmetric, nearest by rounding down, or linear."""
    return _upsample(call)


def _upsample(call: Call) -> Compute:
    rule = Interpolation(call.attribute("mode", "nearest"), "asymmetric", "floor")
    declared = call.attribute("scales")
    resizer, scales_of = _Resizer(rule, 0.0), _floats(call, 1)

    def compute(x: Tensor, scales: Any = None) -> Tensor:
        factors = list(declared or scales_of(scales))
        counts = [floor(size * factor) for size, factor in zip(x.shape, factors, strict=True)]
        return resizer(x, list(range(x.dim())), factors, counts, [0.0] * x.dim() + [1.0] * x.dim())

    return compute


def _floats(call: Call, index: int) -> Callable[[Any], Sequence[float]]:
    known = call.constant(index)
    if known is not None:
        fixed = [float(number) for number in known.reshape(-1)]
        return lambda _: fixed
    return lambda tensor: [float(number) for number in tensor.detach().reshape(-1).tolist()]


class _Resizer:
    """Resizes, and remembers what it worked out for the sizes that it saw."""

    def __init__(self, rule: Interpolation, fill: float) -> None:
        self._rule, self._fill = rule, fill
        self._planned: dict[Any, Callable[[Tensor], Tensor]] = {}

    def __call__(self, x: Tensor, axes: list[int], scales: list[float], counts: list[int], roi: list[float]) -> Tensor:
        key = (tuple(x.shape), tuple(scales), tuple(counts), tuple(roi), x.device, x.dtype)
        if key not in self._planned:
            if len(self._planned) > 64:  # images of ever new sizes: what is remembered stays bounded
                self._planned.clear()
            self._planned[key] = self._plan(x, axes, scales, counts, roi)
        return self._planned[key](x)

    def _plan(
        self, x: Tensor, axes: list[int], scales: list[float], counts: list[int], roi: list[float]
    ) -> Callable[[Tensor], Tensor]:
        taps: dict[int, Taps] = {}
        for place, axis in enumerate(axes):
            size = x.shape[axis]
            if self._rule.transform != "tf_crop_and_resize" and counts[place] == size and scales[place] == 1.0:
                continue
            window = (roi[place], roi[place + len(axes)])
            taps[axis] = self._rule.taps(size, scales[place], counts[place], window)
        if not taps:
            return lambda x: x
        fast = self._native(x, taps)
        if fast is not None:
            return fast
        steps = [(axis, *self._tensors(x, found)) for axis, found in sorted(taps.items())]

        def resize(x: Tensor) -> Tensor:
            real = x if x.is_floating_point() or self._rule.mode == "nearest" else x.float()
            for axis, places, weights, outside in steps:
                real = _along(real, axis, places, weights)
                if outside is not None:
                    real = torch.where(outside.reshape([-1] + [1] * (real.dim() - axis - 1)), self._fill, real)
            return real.to(x.dtype)

        return resize

    def _tensors(self, x: Tensor, taps: Taps) -> tuple[Tensor, Tensor | None, Tensor | None]:
        real = x.dtype if x.is_floating_point() else torch.float32
        weights = None if taps.weights is None else torch.from_numpy(taps.weights).to(x.device, real)
        outside = None if taps.outside is None else torch.from_numpy(taps.outside).to(x.device)
        return torch.from_numpy(taps.places).to(x.device), weights, outside

    def _native(self, x: Tensor, taps: dict[int, Taps]) -> Callable[[Tensor], Tensor] | None:
        """torch's kernel, where the taps are just those that it uses."""
        rank = x.dim() - 2
        if rank not in _TORCH_MODES or min(taps) < 2 or not x.is_floating_point():
            return None
        counts = [taps[axis].places.shape[1] if axis in taps else x.shape[axis] for axis in range(2, x.dim())]
        for mode, corners in (("nearest", None), ("linear", False), ("linear", True)):
            if mode == self._rule.mode and all(self._as_torch(taps, x, axis, corners) for axis in taps):
                name = mode if mode == "nearest" else _TORCH_MODES[rank]
                return lambda x: functional.interpolate(x, counts, mode=name, align_corners=corners)
        return None

    def _as_torch(self, taps: dict[int, Taps], x: Tensor, axis: int, corners: bool | None) -> bool:
        found, size = taps[axis], x.shape[axis]
        count = found.places.shape[1]
        if found.outside is not None:
            return False
        if found.weights is None:
            return count % size == 0 and np.array_equal(found.places[0], np.arange(count) // (count // size))
        transform = "align_corners" if corners else "half_pixel"
        native = Interpolation("linear", transform).taps(size, count / size, count, (0.0, 1.0))
        return (
            native.places.shape == found.places.shape
            and native.weights is not None
            and np.array_equal(native.places, found.places)
            and np.allclose(native.weights, found.weights, rtol=0, atol=1e-9)
        )


def _along(x: Tensor, axis: int, places: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return x.index_select(axis, places[0])
    if len(places) > _MANY_TAPS:
        matrix = weights.new_zeros(places.shape[1], x.shape[axis])
        matrix = matrix.scatter_add(1, places.T, weights.T)
        return torch.matmul(x.movedim(axis, -1), matrix.T).movedim(-1, axis)
    shape = [-1] + [1] * (x.dim() - axis - 1)
    total = x.index_select(axis, places[0]) * weights[0].reshape(shape)
    for tap in range(1, len(places)):
        total = total + x.index_select(axis, places[tap]) * weights[tap].reshape(shape)
    return total
