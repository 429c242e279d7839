"""Quantised convolutions in the forms that TensorRT for RTX 1.7 has good kernels for, as its layer lists show.

It has no int8 kernel for groups of fewer than four channels: a depthwise convolution is fed a copy of its input that
is four times as large, three quarters of it zeros that the engine stores as a constant. Such convolutions go back to
float.

With a weight scale for each channel its int8 convolutions write float32, with one scale for the tensor the network's
16-bit type. So each weight gets one scale s, and the channel's share of it, s_c / s, is a product behind, which joins
the kernel that adds the bias, activates and quantises anyway. The bytes stay what they are; s is the largest scale, or
less where the sum of a channel's products could pass float16's range: |Σ q_w q_x| s s_x ≤ s s_x 128 Σ |q_w|.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.passes.convert.tensorrt_constants import restored
from mopt.passes.convert.tensorrt_graph import Lowering, parameter
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

NARROW: Final = "convolutions of fewer than four channels a group left in float: TensorRT for RTX pads them to four"
SPLIT: Final = "convolutions with one weight scale and a product behind, so that they write 16 bits"
_PADDED: Final = 4
_LARGEST: Final = 32_768.0
"""Half of what float16 holds: the bound on a sum of products leaves room for rounding."""


def convolution(editor: Lowering, node: ir.Node) -> None:
    """Rewrite one `Conv` of quantised input and weight; any other stays as it is."""
    read, held = (node.inputs[index] for index in (0, 1))
    source, weight = (None if value is None else value.producer() for value in (read, held))
    if source is None or weight is None or source.op_type != "DequantizeLinear" or weight.op_type != source.op_type:
        return
    stored = None if weight.inputs[0] is None else constant_array(weight.inputs[0])
    scale = parameter(weight, 1, "scale")
    if stored is None or scale is None or weight.attributes.get_int("block_size", 0) > 0:
        return
    if stored.dtype != np.int8 or scale.dtype != np.float32:
        return
    axis = weight.attributes.get_int("axis", 1)
    if node.attributes.get_int("group", 1) > 1 and stored.shape[1] < _PADDED:
        made = None if source.inputs[0] is None else source.inputs[0].producer()
        if made is None or made.op_type != "QuantizeLinear" or made.inputs[0] is None:
            return
        editor.put(node, 0, made.inputs[0])
        editor.put(node, 1, editor.constant(restored(stored, scale, None, axis, 0), f"{weight.outputs[0].name}_float"))
        editor.count(NARROW)
    elif scale.size > 1 and axis == 0:
        step = parameter(source, 1, "scale")
        assert step is not None
        _split(editor, node, weight, stored.astype(np.int64), scale, float(step.max()))


def _split(
    editor: Lowering, node: ir.Node, weight: ir.Node, stored: NDArray[Any], scale: NDArray[Any], step: float
) -> None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    added = None if bias is None else constant_array(bias)
    if bias is not None and added is None:
        return
    most = step * 128 * float(np.abs(stored).reshape(len(stored), -1).sum(axis=1).max(initial=1))
    shared = np.asarray(min(float(scale.max()), _LARGEST / most), scale.dtype)
    one = [editor.constant(shared, "scale"), editor.constant(np.zeros((), np.int8), "zero_point")]
    (real,) = editor.insert(
        weight, "DequantizeLinear", [weight.inputs[0], *one], label=f"{weight.outputs[0].name}_shared",
        shape=weight.outputs[0].shape,
    )  # fmt: skip
    across = (-1,) + (1,) * (stored.ndim - 2)
    share = editor.constant((scale / shared).astype(scale.dtype).reshape(across), f"{node.name}_share")
    result = node.outputs[0]
    name = result.name
    inputs = [node.inputs[0], real]
    (raw,) = editor.insert(node, "Conv", inputs, label=f"{name}_raw", attributes=node.attributes, shape=result.shape)
    (value,) = editor.insert(node, "Mul", [raw, share], label=f"{name}_scaled", shape=result.shape)
    if added is not None:
        terms = editor.constant(added.reshape(across), f"{node.name}_bias")
        (value,) = editor.insert(node, "Add", [value, terms], label=f"{name}_biased", shape=result.shape)
    editor.redirect(node, value)
    editor.count(SPLIT)
