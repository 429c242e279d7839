"""Convolution whose every window element is looked up at a place of its own."""

from __future__ import annotations

from itertools import product

import torch
from mopt.runtime.trainable.operator import Call, Compute, operator
from mopt.runtime.trainable.windows import Windows
from torch import Tensor


@operator("DeformConv")
def prepare_deformable_convolution(call: Call) -> Compute:
    """Deformable convolution with a mask (Dai et al., 2017; Zhu et al., 2018), over any number of axes."""
    groups, offset_groups = call.attribute("group", 1), call.attribute("offset_group", 1)

    def compute(x: Tensor, w: Tensor, offset: Tensor, bias: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        windows = Windows.of(call, w.shape[2:])
        rank, batch = len(windows.kernel), x.shape[0]
        sides = windows.padding(x.shape[2:])
        counts = [windows.count(axis, x.shape[2 + axis], sides[axis]) for axis in range(rank)]
        elements = list(product(*(range(size) for size in windows.kernel)))
        # [N, offset groups, elements, axes, windows…]: where each element looks, in the unpadded image
        moved = offset.reshape(batch, offset_groups, len(elements), rank, *counts)
        grid = torch.stack(
            torch.meshgrid(
                *(
                    torch.arange(count, device=x.device, dtype=x.dtype) * windows.strides[axis] - sides[axis][0]
                    for axis, count in enumerate(counts)
                ),
                indexing="ij",
            )
        )
        taps = torch.tensor(elements, device=x.device, dtype=x.dtype) * torch.tensor(
            windows.dilations, device=x.device, dtype=x.dtype
        )
        places = moved + grid + taps.reshape(len(elements), rank, *[1] * rank)
        image = x.reshape(batch, offset_groups, -1, *x.shape[2:])
        looked = _look_up(image, places)  # [N, offset groups, channels, elements, windows…]
        if mask is not None:
            looked = looked * mask.reshape(batch, offset_groups, 1, len(elements), *counts)
        columns = looked.reshape(batch, groups, x.shape[1] // groups * len(elements), -1)
        kernel = w.reshape(groups, w.shape[0] // groups, -1)
        result = torch.matmul(kernel, columns).reshape(batch, w.shape[0], *counts)
        return result if bias is None else result + bias.reshape(-1, *[1] * rank)

    return compute


def _look_up(image: Tensor, places: Tensor) -> Tensor:
    """Interpolate linearly between the neighbours of every place; outside of the image lie zeros.

    Args:
        image: [N, G, C, sizes…].
        places: [N, G, K, axes, windows…].

    Returns:
        [N, G, C, K, windows…].
    """
    sizes = image.shape[3:]
    flat = image.flatten(3)
    base = places.detach().floor()
    share = places - base
    total = None
    for corner in product((0, 1), repeat=len(sizes)):
        index, weight, inside = 0, None, None
        for axis, (step, size) in enumerate(zip(corner, sizes, strict=True)):
            at = base[:, :, :, axis].long() + step
            part = share[:, :, :, axis] if step else 1 - share[:, :, :, axis]
            valid = (at >= 0) & (at < size)
            index = index * size + at.clamp(0, size - 1)
            weight = part if weight is None else weight * part
            inside = valid if inside is None else inside & valid
        assert weight is not None and isinstance(index, Tensor)
        where = index.flatten(2).unsqueeze(2).expand(-1, -1, flat.shape[2], -1)
        found = flat.gather(3, where).reshape(*flat.shape[:3], *index.shape[2:])
        part = found * (weight * inside).unsqueeze(2)
        total = part if total is None else total + part
    assert total is not None
    return total
