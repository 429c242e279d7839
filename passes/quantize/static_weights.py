"""Weights and biases of quantised units: symmetric int8, int32, and what correction the rounding calls for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from mopt.passes.contract import PassError
from mopt.passes.quantize.static_units import Unit
from mopt.passes.quantize.symmetric import Quantized, quantize
from numpy.typing import NDArray

_BIAS_LEVELS = 2.0**30


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight on int8: its values, one scale or one for each slice along `axis`, and the bias beside it (float)."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int | None
    bias: NDArray[np.float32] | None


def output_axis(unit: Unit) -> int:
    """Return the axis of output channels of a unit's weight."""
    if unit.kind == "conv":
        return 0
    transposed = unit.node.attributes.get("transB")
    return 0 if unit.kind == "gemm" and transposed is not None and transposed.as_int() else 1


def quantize_weight(
    unit: Unit,
    bias: NDArray[Any] | None,
    x_scale: float,
    means: NDArray[np.float64] | None,
    *,
    per_channel: bool,
    errors: NDArray[np.float64] | None = None,
) -> QuantizedWeight:
    """Quantise a unit's weight, and correct its bias.

    Args:
        bias: f32[M] or None.
        x_scale: the input's scale, by which the bias is counted, too.
        means: the mean of each input channel, for bias correction; None for none. What rounding the weights adds to
            an output channel on average, Σ (ŵ - w) E[x], is taken off its bias (Nagel et al. 2019, eq. 17).
        errors: the mean of what rounding adds to each input channel, E[Q(x) - x]: Σ ŵ times that is taken off, too.

    Raises:
        PassError: weight or bias hold NaN or an infinity.
    """
    assert unit.weight is not None
    array, axis = unit.weight, output_axis(unit)
    for name, content in (("weight", array), ("bias", bias)):
        if content is not None and not np.isfinite(content).all():
            raise PassError(f"the {name} of node `{unit.name}` holds NaN or infinite values", node=unit.name)
    others = tuple(other for other in range(array.ndim) if not per_channel or other != axis)
    found = quantize(array, others, signed=True)
    if bias is not None and bias.size:
        # Where a channel's weights are tiny beside its bias, the bias must still fit into an int32.
        shape = [-1 if other == axis else 1 for other in range(array.ndim)]
        least = (np.abs(bias) / _BIAS_LEVELS / x_scale).astype(np.float32).reshape(shape)
        least = least if per_channel else least.max(keepdims=True)
        if (least > found.scale).any():
            scale = np.maximum(found.scale, least)
            found = Quantized(np.clip(np.rint(array / scale), -127, 127).astype(np.int8), scale, found.zero_point)
    if unit.kind != "matmul" and (means is not None or errors is not None):
        rounded, change = found.values.astype(np.float64) * found.scale, np.zeros(())
        if means is not None:
            change = change + _on_average(unit, rounded - unit.weight, means)
        if errors is not None:
            change = change + _on_average(unit, rounded, errors)
        bias = ((0 if bias is None else bias) - change).astype(np.float32)
    scale = found.scale.reshape(-1) if per_channel else found.scale.reshape(())
    return QuantizedWeight(found.values, scale, axis if per_channel else None, bias)


def _on_average(unit: Unit, weight: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what a weight makes of inputs that are their channels' means: f64[outputs], padding left out."""
    if unit.kind != "conv":
        return np.asarray(weight @ means if output_axis(unit) == 0 else means @ weight)
    kernel = weight.reshape(*weight.shape[:2], -1).sum(-1)
    outputs, per_group = kernel.shape
    groups = len(means) // per_group
    spread = means.reshape(groups, 1, per_group)
    return np.asarray((kernel.reshape(groups, outputs // groups, per_group) * spread).sum(-1).reshape(-1))
