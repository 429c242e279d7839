"""How many different values a weight has: as a whole, or each of its slices.

A promise of clusters is counted in what it was made of. An integer weight whose channels have grids of their own is
counted channel by channel where that is finer: what was one value is another integer on each grid, and no fewer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx_ir as ir
    from mopt.analysis.codebook import Codebook
    from mopt.ir.weights import Weight

_SCALES: Final[dict[str, dict[int, int]]] = {
    # operator: {weight's input index: its scale's}
    "DequantizeLinear": {0: 1},
    "DynamicQuantizeLSTM": {1: 8, 2: 10},
    "DynamicQuantizeMatMul": {1: 2},
    "MatMulIntegerToFloat": {0: 2, 1: 3},
    "QLinearConv": {3: 4},
    "QLinearMatMul": {0: 1, 3: 4},
    "QGemm": {3: 4},
}
_CHANNELS: Final[dict[str, dict[int, int]]] = {"MatMulInteger": {0: -2, 1: -1}, "ConvInteger": {1: 0}}
"""Where the scale is multiplied in behind the operator: the axis that it may run along."""


def distinct(weight: Weight | Codebook, slices: tuple[int, int] | None = None, *, moved: bool = False) -> int:
    """Return the number of different values, or that of the slice with most.

    Args:
        weight: dense, or stored as a codebook.
        slices: (axis, rows): the axis is moved to the front, and the rest is reshaped to so many rows, each of which
            counts alone; None: the whole weight counts.
        moved: the weight may have been transposed since; of the ways to cut it, the one with least counts.
    """
    array = weight.numpy()
    integers = array.dtype.kind != "f"
    # numpy 2.4 sorts float16 wrongly on some processors; types of fewer than 8 bits are extensions without an order.
    array = array.astype(np.int64 if integers else np.float64)
    axis, rows = slices or (0, 1)
    if integers and (grids := _grids(weight, array)) > rows:
        rows, moved = grids, True
    if rows <= 1 or not array.size:
        return int(np.unique(array).size)
    if not moved:
        return _most(np.moveaxis(array, axis, 0).reshape(rows, -1))
    return min((_most(cut) for cut in _cuts(array, rows)), default=int(np.unique(array).size))


def _most(rows: NDArray[Any]) -> int:
    ordered = np.sort(rows, axis=1)
    return int((np.diff(ordered, axis=1) != 0).sum(axis=1).max(initial=0)) + 1


def _cuts(array: NDArray[Any], rows: int) -> Iterator[NDArray[Any]]:
    """Yield the weight cut into rows along each axis that gives so many, alone or within the directions of [D, …]."""
    for axis, size in enumerate(array.shape):
        if size % rows == 0:
            yield np.moveaxis(array, axis, 0).reshape(rows, -1)
    if array.ndim == 3 and array.shape[0] > 1:
        for gates in (array, array.transpose(0, 2, 1)):
            if (gates.shape[0] * gates.shape[1]) % rows == 0:
                yield gates.reshape(rows, -1)


def _grids(weight: Weight | Codebook, array: NDArray[Any]) -> int:
    """Return how many grids an integer weight is on."""
    most = 1
    for node, index in _users(weight):
        scale = _SCALES.get(node.op_type, {}).get(index)
        axis = _CHANNELS.get(node.op_type, {}).get(index)
        if axis is not None:
            most = max(most, array.shape[axis])
        elif scale is not None and scale < len(node.inputs):
            value = node.inputs[scale]
            if value is not None and value.shape is not None and value.shape.is_static():
                most = max(most, int(np.prod(value.shape.numpy(), dtype=np.int64)))
    return most


def _users(weight: Weight | Codebook) -> list[tuple[ir.Node, int]]:
    from mopt.analysis.codebook import Codebook

    if isinstance(weight, Codebook):
        return [(use.node, use.idx) for use in weight.value.uses()]
    return list(weight.users)
