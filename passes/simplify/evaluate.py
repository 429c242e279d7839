"""Computing one node over constants: numpy where that is exact by definition, onnxruntime for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.rewrite import any_constant
from mopt.rewrite.attributes import integer, integers, tensor
from mopt.rewrite.constants import Array

Kernel = Callable[[ir.Node, Sequence[Array]], Array]


class EvaluationError(Exception):
    """A node over constants can't be computed; the message says why."""


def evaluate(node: ir.Node, opset: int) -> list[Array | None]:
    """Return the outputs of a node whose inputs are all constant; None for an output it leaves out.

    Raises:
        EvaluationError: onnxruntime has no kernel for it, or refuses the values.
    """
    arrays = [any_constant(value) for value in node.inputs]
    kernel = _EXACT.get(node.op_type)
    if kernel is not None and all(array is not None for array in arrays):
        try:
            return [kernel(node, [array for array in arrays if array is not None])]
        except _UndecidedError:
            pass
        except (ValueError, IndexError) as error:
            raise EvaluationError(str(error)) from error
    return _by_onnxruntime(node, arrays, opset)


class _UndecidedError(Exception):
    """The exact kernel leaves this case to onnxruntime."""


def _by_onnxruntime(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> list[Array | None]:
    import onnx
    import onnxruntime

    proto = ir.serde.serialize_node(node)
    del proto.metadata_props[:]
    names = [f"i{index}" if value is not None else "" for index, value in enumerate(node.inputs)]
    outputs = [f"o{index}" if value.name else "" for index, value in enumerate(node.outputs)]
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.extend(outputs)
    feeds = {name: np.ascontiguousarray(array).reshape(array.shape)
             for name, array in zip(names, arrays, strict=True) if array is not None}  # fmt: skip
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    wanted = [onnx.ValueInfoProto(name=name) for name in outputs if name]
    graph = onnx.helper.make_graph([proto], "fold", infos, wanted)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])
        results = dict(zip([name for name in outputs if name], session.run(None, feeds), strict=True))
    except Exception as error:
        raise EvaluationError(str(error).splitlines()[0][:200]) from error
    if any(not isinstance(result, np.ndarray) or result.dtype.kind == "O" for result in results.values()):
        raise EvaluationError("it computes a sequence or text")
    return [results.get(name) for name in outputs]


def _reshape(node: ir.Node, inputs: Sequence[Array]) -> Array:
    data, target = inputs
    sizes = [int(size) for size in target]
    if not integer(node, "allowzero", 0):
        sizes = [data.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return data.reshape(sizes)


def _axes(node: ir.Node, inputs: Sequence[Array]) -> tuple[int, ...] | None:
    found = integers(node, "axes")
    if found is None and len(inputs) > 1:
        found = [int(axis) for axis in inputs[1].reshape(-1)]
    return None if found is None else tuple(found)


def _unsqueeze(node: ir.Node, inputs: Sequence[Array]) -> Array:
    return np.expand_dims(inputs[0], _axes(node, inputs) or ())


def _squeeze(node: ir.Node, inputs: Sequence[Array]) -> Array:
    return np.squeeze(inputs[0], _axes(node, inputs))


def _transpose(node: ir.Node, inputs: Sequence[Array]) -> Array:
    return np.transpose(inputs[0], integers(node, "perm"))


def _concat(node: ir.Node, inputs: Sequence[Array]) -> Array:
    return np.concatenate(list(inputs), axis=integer(node, "axis", 0))


def _gather(node: ir.Node, inputs: Sequence[Array]) -> Array:
    return np.asarray(np.take(inputs[0], inputs[1].astype(np.int64), axis=integer(node, "axis", 0)))


def _binary(function: Callable[[Any, Any], Any]) -> Kernel:
    def kernel(node: ir.Node, inputs: Sequence[Array]) -> Array:
        if inputs[0].dtype != inputs[1].dtype or inputs[0].dtype not in (np.float32, np.float64, np.int64, np.int32):
            raise _UndecidedError
        return np.asarray(function(inputs[0], inputs[1]), dtype=inputs[0].dtype)

    return kernel


def _divide(node: ir.Node, inputs: Sequence[Array]) -> Array:
    if inputs[0].dtype not in (np.float32, np.float64) or not bool(np.all(inputs[1])):
        raise _UndecidedError
    return np.asarray(np.divide(inputs[0], inputs[1]), dtype=inputs[0].dtype)


def _filled(node: ir.Node, inputs: Sequence[Array]) -> Array:
    held = tensor(node, "value")
    fill = np.zeros(1, np.float32) if held is None else held.numpy()
    return np.full([int(size) for size in inputs[0]], fill.reshape(-1)[0], dtype=fill.dtype)


def _shape(node: ir.Node, inputs: Sequence[Array]) -> Array:
    end = integer(node, "end", 0) if "end" in node.attributes else None
    return np.array(inputs[0].shape[integer(node, "start", 0) : end], dtype=np.int64)


def _expand(node: ir.Node, inputs: Sequence[Array]) -> Array:
    sizes = np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in inputs[1]))
    return np.ascontiguousarray(np.broadcast_to(inputs[0], sizes))


_EXACT: Final[dict[str, Kernel]] = {
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Gather": _gather,
    "Add": _binary(np.add),
    "Sub": _binary(np.subtract),
    "Mul": _binary(np.multiply),
    "Div": _divide,
    "ConstantOfShape": _filled,
    "Shape": _shape,
    "Expand": _expand,
}
"""Operators that numpy computes just as the specification says, for these element types."""
