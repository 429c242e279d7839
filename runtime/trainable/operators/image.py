"""Cropping images and sampling them at coordinates."""

from __future__ import annotations

from typing import Any, Final

from mopt.runtime.trainable.operator import Call, Compute, operator
from mopt.runtime.trainable.sampling import sample
from torch import Tensor
from torch.nn import functional

_TORCH_MODES: Final = {"bilinear": "bilinear", "linear": "bilinear", "nearest": "nearest", "cubic": "bicubic",
                       "bicubic": "bicubic"}  # fmt: skip


@operator("CenterCropPad", host=(1,))
def prepare_center_crop_pad(call: Call) -> Compute:
    """Cropped or padded with zeros at both ends alike; what is odd is at the end."""
    axes, read = call.attribute("axes"), call.integers(1)

    def compute(x: Tensor, shape: Tensor) -> Tensor:
        wanted = read(shape)
        assert wanted is not None
        for axis, size in zip(axes or range(x.dim()), wanted, strict=True):
            along, surplus = axis % x.dim(), x.shape[axis] - size
            if surplus > 0:
                x = x.narrow(along, surplus // 2, size)
            elif surplus < 0:
                pads = [0, 0] * (x.dim() - along - 1) + [-surplus // 2, -surplus - (-surplus // 2)]
                x = functional.pad(x, pads)
        return x

    return compute


@operator("GridSample")
def prepare_grid_sample(call: Call) -> Compute:
    """Sampled at coordinates from -1 to 1: by torch's kernel in two dimensions, by our own in others."""
    mode, padding = call.attribute("mode", "linear"), call.attribute("padding_mode", "zeros")
    corners = bool(call.attribute("align_corners", 0))

    def compute(x: Tensor, grid: Tensor) -> Tensor:
        if x.dim() == 4 or (x.dim() == 5 and mode != "cubic"):
            return functional.grid_sample(x, grid.to(x.dtype), _TORCH_MODES[mode], padding, corners)
        return sample(x, grid, mode, padding, corners)

    return compute


@operator("AffineGrid", host=(1,))
def prepare_affine_grid(call: Call) -> Compute:
    """Coordinates of an affine view, for GridSample."""
    corners, read = bool(call.attribute("align_corners", 0)), call.integers(1)

    def compute(theta: Tensor, size: Tensor) -> Any:
        shape = read(size)
        assert shape is not None
        return functional.affine_grid(theta, shape, corners)

    return compute
