"""Shapes of operators that keep, broadcast or rearrange elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import onnx_ir as ir
from mopt.rewrite.attributes import integer, integers
from mopt.rewrite.symbol import Size, add, exact_quotient, floor_quotient, multiply, product, subtract
from mopt.rewrite.symbolic import Shape, ShapeHandler, Symbolic

_SAME: Final = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Bernoulli BitwiseNot Cast CastLike Ceil Celu Clip "
    "Cos Cosh CumSum DequantizeLinear Dropout Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid HardSwish "
    "Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax "
    "LpNormalization MeanVarianceNormalization Mish Neg Not PRelu QuantizeLinear Reciprocal Relu Round Selu "
    "Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu "
    "RMSNormalization ReverseSequence ScatterElements ScatterND"
)
_BROADCAST: Final = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or Pow Sub Sum Where Xor"
)


def broadcast(symbolic: Symbolic, shapes: Sequence[Shape | None]) -> Shape | None:
    """Return the multidirectional broadcast of shapes; a pair of unequal symbols gives a new one."""
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    result: list[Size] = []
    for axis in range(-max(map(len, known), default=0), 0):
        size: Size = 1
        for shape in known:
            if len(shape) < -axis:
                continue
            other = shape[axis]
            if size == 1 or size == other:
                size = other
            elif other != 1:
                size = other if isinstance(other, int) else size if isinstance(size, int) else symbolic.fresh()
        result.append(size)
    return tuple(result)


def _same(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape = symbolic.shape(node.inputs[0])
    # The further outputs of LayerNormalization and of training-mode operators have other shapes.
    return [shape, *(symbolic.shape(None) for _ in node.outputs[1:])]


def _broadcast(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    return [broadcast(symbolic, [symbolic.shape(value) for value in node.inputs])]


def axes_of(symbolic: Symbolic, node: ir.Node, *, position: int = 1) -> list[int] | None:
    """Return the axes a node names, by attribute (older operator sets) or constant input; None if it names none."""
    if "axes" in node.attributes:
        return integers(node, "axes")
    return symbolic.numbers(node.inputs[position]) if len(node.inputs) > position else None


def _reshape(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    source, target = symbolic.shape(node.inputs[0]), symbolic.content(node.inputs[1])
    if target is None or target.ndim != 1:
        sizes = symbolic.shape(node.inputs[1])
        if sizes is not None and len(sizes) == 1 and isinstance(sizes[0], int):
            return [tuple(symbolic.fresh() for _ in range(sizes[0]))]
        return [None]
    wanted: list[Size] = list(target)
    if not integer(node, "allowzero", 0):
        for axis, size in enumerate(wanted):
            if size == 0:
                wanted[axis] = source[axis] if source is not None and axis < len(source) else symbolic.fresh()
    if -1 in wanted:
        hole = wanted.index(-1)
        others = product([size for axis, size in enumerate(wanted) if axis != hole])
        rest = None if source is None else exact_quotient(product(source), others)
        wanted[hole] = symbolic.fresh() if rest is None else rest
    return [tuple(wanted)]


def _flatten(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape = symbolic.shape(node.inputs[0])
    if shape is None:
        return [(symbolic.fresh(), symbolic.fresh())]
    axis = integer(node, "axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return [(product(shape[:axis]), product(shape[axis:]))]


def _squeeze(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape, axes = symbolic.shape(node.inputs[0]), axes_of(symbolic, node)
    if shape is None:
        return [None]
    if axes is None:
        if len(node.inputs) > 1 or any(not isinstance(size, int) for size in shape):
            return [None]
        return [tuple(size for size in shape if size != 1)]
    gone = {axis % len(shape) for axis in axes} if shape else set()
    return [tuple(size for axis, size in enumerate(shape) if axis not in gone)]


def _unsqueeze(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape, axes = symbolic.shape(node.inputs[0]), axes_of(symbolic, node)
    if shape is None or axes is None:
        return [None]
    rank = len(shape) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(shape)
    return [tuple(1 if axis in new else next(rest) for axis in range(rank))]


def _transpose(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape = symbolic.shape(node.inputs[0])
    if shape is None:
        return [None]
    order = integers(node, "perm") or list(reversed(range(len(shape))))
    return [tuple(shape[axis] for axis in order)]


def _concat(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shapes = [symbolic.shape(value) for value in node.inputs]
    first = next((shape for shape in shapes if shape is not None), None)
    if first is None:
        return [None]
    axis = integer(node, "axis", 0) % max(len(first), 1)
    total: Size = 0
    for shape in shapes:
        total = symbolic.fresh() if shape is None or axis >= len(shape) else add(total, shape[axis])
        if shape is None:
            break
    sizes = list(first)
    for other in shapes:
        for position, size in enumerate(other or ()):
            if isinstance(size, int) and position < len(sizes):
                sizes[position] = size
    sizes[axis] = total
    return [tuple(sizes)]


def _split(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape = symbolic.shape(node.inputs[0])
    if shape is None:
        return [None for _ in node.outputs]
    axis, count = integer(node, "axis", 0) % len(shape), len(node.outputs)
    parts = integers(node, "split") if "split" in node.attributes else None
    if parts is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        parts = symbolic.numbers(node.inputs[1])
        if parts is None:
            return [(*shape[:axis], symbolic.fresh(), *shape[axis + 1 :]) for _ in node.outputs]
    size = shape[axis]
    sizes: list[Size]
    if parts is not None:
        sizes = list(parts)
    elif isinstance(size, int):
        chunk = -(-size // count)
        sizes = [min(chunk, size - chunk * index) for index in range(count)]
    else:
        sizes = [exact_quotient(size, count) or symbolic.fresh() for _ in node.outputs]
    return [(*shape[:axis], part, *shape[axis + 1 :]) for part in sizes]


def slice_bounds(symbolic: Symbolic, node: ir.Node) -> list[tuple[int, Size, Size, int]] | None:
    """Return (axis, start, end, step) for each sliced axis; None where axes or steps are no plain numbers."""
    shape = symbolic.shape(node.inputs[0])
    if shape is None:
        return None
    if "starts" in node.attributes:
        starts: list[Size] = list(integers(node, "starts") or ())
        ends: list[Size] = list(integers(node, "ends") or ())
        axes = integers(node, "axes") or list(range(len(starts)))
        steps = [1] * len(starts)
    else:
        first, last = symbolic.content(node.inputs[1]), symbolic.content(node.inputs[2])
        if first is None or last is None:
            return None
        starts, ends = list(first.flat), list(last.flat)
        given = [*node.inputs[3:], None, None]
        found = symbolic.numbers(given[0]) if given[0] is not None else list(range(len(starts)))
        strides = symbolic.numbers(given[1]) if given[1] is not None else [1] * len(starts)
        if found is None or strides is None:
            return None
        axes, steps = found, strides
    if len({axis % len(shape) for axis in axes}) != len(axes):
        return None
    return [(axis % len(shape), a, b, step) for axis, a, b, step in zip(axes, starts, ends, steps, strict=True)]


def sliced_size(size: Size, start: Size, end: Size, step: int) -> Size | None:
    """Return how many elements a slice keeps, or None where that can't be told."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(size)[_slice(start, end, step)])
    if step != 1 or not isinstance(start, int):
        return None
    if isinstance(end, int) and end > 1 << 30:
        end = size
    if isinstance(end, int) and end < 0:
        end = add(size, end)
    if start < 0:
        # The last elements of an axis that may be shorter than that.
        return -start if end == size and start == -1 else None
    if end == size:
        return subtract(size, start) if start <= 1 else None
    if isinstance(end, int):
        return 1 if (start, end) == (0, 1) else None
    shrunk = subtract(size, end)
    return subtract(end, start) if isinstance(shrunk, int) and shrunk >= 0 and start <= 1 else None


def _slice(start: int, end: int, step: int) -> slice:
    return slice(start, None if step < 0 and end < -(1 << 30) else end, step)


def _sliced(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape, bounds = symbolic.shape(node.inputs[0]), slice_bounds(symbolic, node)
    if shape is None:
        return [None]
    if bounds is None:
        return [tuple(symbolic.fresh() for _ in shape)]
    sizes = list(shape)
    for axis, start, end, step in bounds:
        kept = sliced_size(shape[axis], start, end, step)
        sizes[axis] = symbolic.fresh() if kept is None else kept
    return [tuple(sizes)]


def _gather(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    data, indices = symbolic.shape(node.inputs[0]), symbolic.shape(node.inputs[1])
    if data is None or indices is None:
        return [None]
    axis = integer(node, "axis", 0) % len(data)
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _expand(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    source, target = symbolic.shape(node.inputs[0]), symbolic.content(node.inputs[1])
    if target is None:
        sizes = symbolic.shape(node.inputs[1])
        if source is not None and sizes is not None and len(sizes) == 1 and isinstance(sizes[0], int):
            return [tuple(symbolic.fresh() for _ in range(max(len(source), sizes[0])))]
        return [None]
    return [broadcast(symbolic, [source, tuple(target.flat)])]


def _tile(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape, repeats = symbolic.shape(node.inputs[0]), symbolic.content(node.inputs[1])
    if shape is None or repeats is None:
        return [None if shape is None else tuple(symbolic.fresh() for _ in shape)]
    return [tuple(multiply(size, times) for size, times in zip(shape, repeats.flat, strict=True))]


def _shape_op(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape = symbolic.shape(node.inputs[0])
    if shape is None:
        return [(symbolic.fresh(),)]
    return [(len(shape[integer(node, "start", 0) : _end(node)]),)]


def _end(node: ir.Node) -> int | None:
    return integer(node, "end", 0) if "end" in node.attributes else None


def _filled(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    sizes = symbolic.content(node.inputs[0])
    if sizes is not None:
        return [tuple(sizes.flat)]
    shape = symbolic.shape(node.inputs[0])
    known = shape is not None and len(shape) == 1 and isinstance(shape[0], int)
    return [tuple(symbolic.fresh() for _ in range(int(str(shape[0])))) if known and shape is not None else None]


def _range(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    parts = [symbolic.content(value) for value in node.inputs]
    if all(part is not None and part.size == 1 for part in parts):
        start, limit, step = (part.flat[0] for part in parts if part is not None)
        if step == 1:
            return [(subtract(limit, start),)]
    return [(symbolic.fresh(),)]


def _constant(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    from mopt.rewrite.constants import stored_tensor

    tensor = stored_tensor(node.outputs[0])
    return [None if tensor is None else tuple(tensor.shape.numpy())]


def _depth_to_space(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    shape, block = symbolic.shape(node.inputs[0]), integer(node, "blocksize", 1)
    if shape is None or len(shape) != 4:
        return [None]
    n, c, h, w = shape
    if node.op_type == "DepthToSpace":
        channels = exact_quotient(c, block * block)
        return [(n, symbolic.fresh() if channels is None else channels, multiply(h, block), multiply(w, block))]
    return [(n, multiply(c, block * block), floor_quotient(h, block), floor_quotient(w, block))]


def _one_hot(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    indices, depth = symbolic.shape(node.inputs[0]), symbolic.content(node.inputs[1])
    if indices is None:
        return [None]
    axis = integer(node, "axis", -1) % (len(indices) + 1)
    size = symbolic.fresh() if depth is None else depth.flat[0]
    return [(*indices[:axis], size, *indices[axis:])]


def _like_second(symbolic: Symbolic, node: ir.Node) -> Sequence[Shape | None]:
    return [symbolic.shape(node.inputs[1])]


LAYOUT: Final[dict[str, ShapeHandler]] = {
    **dict.fromkeys(_SAME.split(), _same),
    **dict.fromkeys(_BROADCAST.split(), _broadcast),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Slice": _sliced,
    "Gather": _gather,
    "GatherElements": _like_second,
    "Expand": _expand,
    "Tile": _tile,
    "Shape": _shape_op,
    "Size": lambda symbolic, node: [()],
    "ConstantOfShape": _filled,
    "Range": _range,
    "Constant": _constant,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "OneHot": _one_hot,
}
"""Operator → the shapes of its outputs."""
