"""Cross-layer equalisation: channels of one tensor brought to like ranges, the scales absorbed by weights.

Nagel et al. 2019 (arXiv:1906.04721) equalise weights pair by pair; here the ranges are the activations', as
calibration saw them, whole residual streams share a scale, and how far to go is chosen by the noise it saves. A
depthwise convolution takes any scale at no cost, with a weight scale for each channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from mopt.ir import Module
from mopt.passes.contract import Context, Note
from mopt.passes.quantize.static_channels import Group, groups
from mopt.passes.quantize.static_constants import Constants
from mopt.passes.quantize.static_migration import Reader, choose
from mopt.passes.quantize.static_observe import ChannelStatistics, observe
from mopt.rewrite.constants import constant_array
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mopt.runtime.contract import Split

Reals = NDArray[np.float64]


def equalize(module: Module, split: Split, context: Context) -> list[Note]:
    """Equalise the channels of a float module in place; return what to say of it.

    Results stay the same up to float rounding, but for elements of a clipped tensor that exceed what their channel
    ever reached in calibration: the Clip now meets them at that reach.
    """
    found = [group for group in groups(module) if _channels(group) > 1]
    statistics = {
        value.name or "": ChannelStatistics(1) for group in found for value in group.values if _is_read(value)
    }
    if not statistics:
        return [Note("`equalize`: no tensor between two convolutions could be equalised")]

    def visit(arrays: Any) -> None:
        for name, array in arrays.items():
            statistics[name].add(array)

    observe(module, list(statistics), split, context, label="measure channels", visit=visit)
    constants, moved = Constants(module), 0
    for group in found:
        moved += _equalize(group, statistics, constants)
    module.touch()
    return [Note(f"equalised the channels of {moved} of {len(found)} tensors or residual streams")]


def _channels(group: Group) -> int:
    sizes = {_outputs(node) for node in group.producers} | {_inputs(node) for node in group.consumers}
    return sizes.pop() if len(sizes) == 1 else 0


def _is_read(value: ir.Value) -> bool:
    """Say whether a value is one that lies on a grid: not what a folded Relu or Clip reads."""
    return not (len(value.uses()) == 1 and next(iter(value.uses())).node.op_type in ("Relu", "Clip"))


def _equalize(group: Group, statistics: dict[str, ChannelStatistics], constants: Constants) -> bool:
    seen = [statistics[value.name or ""] for value in group.values if (value.name or "") in statistics]
    seen = [one for one in seen if one.low.size]
    if not seen:
        return False
    # Each value has a grid of its own: a channel's range counts relative to the widest channel beside it.
    widest = [max(float(one.reach.max()), 1e-30) for one in seen]
    if group.ceiling is not None:
        ranges = np.max([np.minimum(one.reach, group.ceiling) for one in seen], axis=0)
    else:
        ranges = np.max([one.reach / most for one, most in zip(seen, widest, strict=True)], axis=0) * widest[-1]
    power = np.mean([one.power for one in seen], axis=0)
    readers = [Reader(_blocks(node)) for node in group.consumers]
    scale, strength = choose(ranges, power, readers, ceiling=group.ceiling)
    if not strength:
        return False
    for node in group.producers:
        _multiply(node, scale, constants)
    for node in group.consumers:
        _divide(node, scale, constants)
    return True


def _weight(node: ir.Node) -> NDArray[Any]:
    array = constant_array(node.inputs[1])
    assert array is not None
    return array


def _groups(node: ir.Node) -> int:
    return node.attributes["group"].as_int() if "group" in node.attributes else 1


def _turned(node: ir.Node) -> bool:
    """Say whether a Gemm's weight is [outputs, inputs]."""
    return "transB" in node.attributes and bool(node.attributes["transB"].as_int())


def _outputs(node: ir.Node) -> int:
    return int(_weight(node).shape[0 if node.op_type == "Conv" or _turned(node) else 1])


def _inputs(node: ir.Node) -> int:
    shape = _weight(node).shape
    return int(shape[1] * _groups(node) if node.op_type == "Conv" else shape[1 if _turned(node) else 0])


def _blocks(node: ir.Node) -> Reals:
    """Return a weight as f64[groups, outputs, channels of a group, kernel]."""
    array = _weight(node).astype(np.float64)
    if node.op_type != "Conv":
        return (array if _turned(node) else array.T)[None, :, :, None]
    count = _groups(node)
    return array.reshape(count, array.shape[0] // count, array.shape[1], -1)


def _multiply(node: ir.Node, scale: Reals, constants: Constants) -> None:
    array = _weight(node)
    first = node.op_type == "Conv" or _turned(node)
    shape = [-1, *[1] * (array.ndim - 1)] if first else [1, -1]
    constants.replace(node, 1, array * scale.reshape(shape))
    bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:
        constants.replace(node, 2, bias * scale)


def _divide(node: ir.Node, scale: Reals, constants: Constants) -> None:
    array = _weight(node)
    if node.op_type != "Conv":
        constants.replace(node, 1, array / (scale if _turned(node) else scale[:, None]))
        return
    count = _groups(node)
    blocks = array.reshape(count, array.shape[0] // count, array.shape[1], -1)
    constants.replace(node, 1, (blocks / scale.reshape(count, 1, -1, 1)).reshape(array.shape))
