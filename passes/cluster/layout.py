"""Weights as matrices whose rows have a codebook each: one output channel a row, or several neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from mopt.ir.weights import Weight
from numpy.typing import NDArray


@dataclass(frozen=True)
class Layout:
    """How a weight is cut into rows: `axis` is moved to the front, then it is reshaped to [rows, …]."""

    axis: int
    rows: int

    def matrix(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a weight, or what has its shape, as rows."""
        return np.moveaxis(array, self.axis, 0).reshape(self.rows, -1)

    def undone(self, matrix: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return rows in the weight's shape."""
        moved = (shape[self.axis], *shape[: self.axis], *shape[self.axis + 1 :])
        return np.moveaxis(matrix.reshape(moved), 0, self.axis)


def layout_of(weight: Weight, channels: int) -> Layout | None:
    """Return the layout in which each codebook serves `channels` output channels; None for one of the whole weight.

    Where `channels` does not divide their number, it is the next smaller number that does.
    """
    if channels == 0 or len(weight.shape) < 2 or not weight.users:
        return None
    axis, count = _output_channels(weight)
    each = next(number for number in range(min(channels, count), 0, -1) if count % number == 0)
    return Layout(axis, (weight.shape[0] if axis == 0 and count != weight.shape[0] else 1) * count // each)


def _output_channels(weight: Weight) -> tuple[int, int]:
    """Return the axis that output channels run along, and their number (of gates [D, G · H, I]: G · H)."""
    node, index = weight.users[0]
    rank, flipped = len(weight.shape), False
    while node.op_type == "Transpose" and len(node.outputs[0].uses()) == 1 and rank == 2:
        flipped = not flipped
        (usage,) = node.outputs[0].uses()
        node, index = usage.node, usage.idx
    if node.op_type in ("LSTM", "GRU", "RNN") and rank == 3:
        return 0, weight.shape[1]
    axis = 0
    if node.op_type == "ConvTranspose":
        axis = 1
    elif node.op_type == "MatMul":
        axis = rank - 1 if index == 1 else rank - 2
    elif node.op_type == "Gemm":
        axis = 0 if node.attributes.get_int("transB", 0) else 1
        axis = axis if index == 1 else 1 - axis
    if flipped:
        axis = 1 - axis
    return axis, weight.shape[axis]


def constant_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return what an initializer or a `Constant` holds; None for anything else, and for what a caller may override."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()
