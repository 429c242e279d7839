"""Shapes of operators that compute over windows, reductions, products and sequences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir
from mopt.rewrite.attributes import integer, integers, text
from mopt.rewrite.constants import constant_array
from mopt.rewrite.symbol import Size, add, floor_quotient, multiply
from mopt.rewrite.symbolic import Shape, ShapeHandler, Symbolic
from mopt.rewrite.symbolic_layout import axes_of, broadcast


def _window(
    symbolic: Symbolic, node: ir.Node, size: Size, kernel: int, axis: int, rank: int, *, ceil: bool = False
) -> Size:
    strides = integers(node, "strides") or [1] * rank
    dilations = integers(node, "dilations") or [1] * rank
    pads = integers(node, "pads") or [0] * (2 * rank)
    mode = text(node, "auto_pad", "NOTSET")
    stride, reach = strides[axis], dilations[axis] * (kernel - 1) + 1
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return floor_quotient(add(size, stride - 1), stride)
    padding = 0 if mode == "VALID" else pads[axis] + pads[axis + rank]
    span = add(size, padding - reach)
    if not ceil:
        return add(floor_quotient(span, stride), 1)
    if isinstance(span, int):
        count = -(-span // stride) + 1
        # A window must start inside the input or its left padding.
        return count - 1 if (count - 1) * stride >= int(str(size)) + pads[axis] else count
    return add(span, 1) if stride == 1 else symbolic.fresh()


def _conv(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data, weight = symbolic.shape(node.inputs[0]), symbolic.shape(node.inputs[1])
    if data is None or weight is None:
        return [None]
    rank = len(data) - 2
    kernel: list[Size] = [*(integers(node, "kernel_shape") or weight[2:])]
    if any(not isinstance(size, int) for size in kernel):
        return [(data[0], weight[0], *(symbolic.fresh() for _ in range(rank)))]
    sizes = [_window(symbolic, node, data[axis + 2], int(str(kernel[axis])), axis, rank) for axis in range(rank)]
    return [(data[0], weight[0], *sizes)]


def _conv_transpose(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data, weight = symbolic.shape(node.inputs[0]), symbolic.shape(node.inputs[1])
    if data is None or weight is None:
        return [None]
    rank = len(data) - 2
    channels = multiply(weight[1], integer(node, "group", 1))
    kernel: list[Size] = [*(integers(node, "kernel_shape") or weight[2:])]
    if "output_shape" in node.attributes or text(node, "auto_pad", "NOTSET") != "NOTSET":
        return [(data[0], channels, *(symbolic.fresh() for _ in range(rank)))]
    strides = integers(node, "strides") or [1] * rank
    dilations = integers(node, "dilations") or [1] * rank
    pads = integers(node, "pads") or [0] * (2 * rank)
    extra = integers(node, "output_padding") or [0] * rank
    sizes: list[Size] = []
    for axis in range(rank):
        reach = dilations[axis] * (int(str(kernel[axis])) - 1) + 1
        constant = extra[axis] + reach - pads[axis] - pads[axis + rank] - strides[axis]
        sizes.append(add(multiply(data[axis + 2], strides[axis]), constant))
    return [(data[0], channels, *sizes)]


def _pool(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data, kernel = symbolic.shape(node.inputs[0]), integers(node, "kernel_shape")
    if data is None or kernel is None:
        return [None for _ in node.outputs]
    ceil = bool(integer(node, "ceil_mode", 0))
    rank = len(data) - 2
    sizes = [_window(symbolic, node, data[axis + 2], kernel[axis], axis, rank, ceil=ceil) for axis in range(rank)]
    return [(*data[:2], *sizes) for _ in node.outputs]


def _global_pool(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data = symbolic.shape(node.inputs[0])
    return [None if data is None else (*data[:2], *(1 for _ in data[2:]))]


def _matmul(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    left, right = symbolic.shape(node.inputs[0]), symbolic.shape(node.inputs[1])
    if not left or not right:
        return [None]
    if len(left) == 1 or len(right) == 1:
        return [left[:-1] if len(right) == 1 else (*right[:-2], right[-1])]
    batch = broadcast(symbolic, [left[:-2], right[:-2]])
    return [None if batch is None else (*batch, left[-2], right[-1])]


def _gemm(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    left, right = symbolic.shape(node.inputs[0]), symbolic.shape(node.inputs[1])
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return [None]
    return [(left[1 if integer(node, "transA", 0) else 0], right[0 if integer(node, "transB", 0) else 1])]


def _reduce(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data = symbolic.shape(node.inputs[0])
    if data is None:
        return [None]
    keep = bool(integer(node, "keepdims", 1))
    if node.op_type in ("ArgMax", "ArgMin"):
        axes: list[int] | None = [integer(node, "axis", 0)]
    else:
        axes = axes_of(symbolic, node)
        if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
            return [tuple(symbolic.fresh() for _ in data) if keep else None]
        if not axes:
            if integer(node, "noop_with_empty_axes", 0):
                return [data]
            axes = list(range(len(data)))
    gone = {axis % len(data) for axis in axes or ()} if data else set()
    if keep:
        return [tuple(1 if axis in gone else size for axis, size in enumerate(data))]
    return [tuple(size for axis, size in enumerate(data) if axis not in gone)]


def _pad(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data = symbolic.shape(node.inputs[0])
    pads = pads_of(symbolic, node)
    if data is None:
        return [None]
    if pads is None:
        return [tuple(symbolic.fresh() for _ in data)]
    rank = len(data)
    return [tuple(add(size, add(pads[axis], pads[axis + rank])) for axis, size in enumerate(data))]


def pads_of(symbolic: Symbolic, node: ir.Node) -> list[Size] | None:
    """Return the paddings of a `Pad` node, befores then afters over all axes; None where unknown."""
    data = symbolic.shape(node.inputs[0])
    if data is None:
        return None
    if "pads" in node.attributes:
        return list(integers(node, "pads") or ())
    given = symbolic.content(node.inputs[1])
    if given is None:
        return None
    axes = symbolic.numbers(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    if len(node.inputs) > 3 and node.inputs[3] is not None and axes is None:
        return None
    rank = len(data)
    chosen = [axis % rank for axis in axes] if axes is not None else list(range(rank))
    pads: list[Size] = [0] * (2 * rank)
    flat = list(given.flat)
    if len(flat) != 2 * len(chosen):
        return None
    for position, axis in enumerate(chosen):
        pads[axis], pads[axis + rank] = flat[position], flat[position + len(chosen)]
    return pads


def _resize(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data = symbolic.shape(node.inputs[0])
    if data is None:
        return [None]
    unknown = tuple(symbolic.fresh() for _ in data)
    if "axes" in node.attributes or text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return [unknown]
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        sizes = symbolic.content(node.inputs[3])
        return [unknown if sizes is None else tuple(sizes.flat)]
    position = 1 if node.op_type == "Upsample" or len(node.inputs) == 2 else 2
    scales = constant_array(node.inputs[position]) if len(node.inputs) > position else None
    if scales is None or scales.size != len(data):
        return [unknown]
    result: list[Size] = []
    for size, scale in zip(data, scales.tolist(), strict=True):
        if scale == int(scale):
            result.append(multiply(size, int(scale)))
        elif isinstance(size, int):
            result.append(int(size * scale))
        elif (1 / scale) == int(1 / scale):
            result.append(floor_quotient(size, int(1 / scale)))
        else:
            result.append(symbolic.fresh())
    return [tuple(result)]


def _recurrent(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data, weight = symbolic.shape(node.inputs[0]), symbolic.shape(node.inputs[2])
    if data is None or weight is None or len(data) != 3 or len(weight) != 3:
        return [None for _ in node.outputs]
    directions, hidden = weight[0], weight[2]
    if integer(node, "layout", 0):
        state: Shape = (data[0], directions, hidden)
        return [(data[0], data[1], directions, hidden), state, state][: len(node.outputs)]
    state = (directions, data[1], hidden)
    return [(data[0], directions, data[1], hidden), state, state][: len(node.outputs)]


def _top_k(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data = symbolic.shape(node.inputs[0])
    if data is None:
        return [None, None]
    axis = integer(node, "axis", -1) % len(data)
    count = symbolic.content(node.inputs[1]) if len(node.inputs) > 1 else None
    size: Size = symbolic.fresh() if count is None else count.flat[0]
    shape = (*data[:axis], size, *data[axis + 1 :])
    return [shape, shape]


def _stft_like(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    return [None for _ in node.outputs]


_REDUCTIONS = (
    "ReduceMax ReduceMin ReduceMean ReduceSum ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceSumSquare ArgMax ArgMin"
)

SPATIAL: Final[dict[str, ShapeHandler]] = {
    **dict.fromkeys(_REDUCTIONS.split(), _reduce),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _global_pool),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Pad": _pad,
    "TopK": _top_k,
    "STFT": _stft_like,
}
"""Operator → the shapes of its outputs."""
