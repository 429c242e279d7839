"""A convolution as a product: the patches of its input, and its weight as one matrix for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from mopt.passes.quantize.static_units import Unit
from mopt.passes.quantize.static_weights import output_axis
from numpy.typing import NDArray

_ROWS: Final = 4
"""Patches wanted in all, as a multiple of a patch's size: more would not change second moments much."""


@dataclass(frozen=True)
class Patches:
    """How a unit's input turns into rows, [groups, rows, size], and its weight into [groups, outputs, size].

    Attributes:
        groups: of a convolution; 1 for a product.
        size: elements of a patch: inputs of one output.
        kernel: spatial size of a convolution's weight; empty for a product.
        outputs_first: a product's weight is [outputs, inputs].
    """

    groups: int
    size: int
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] = ()
    outputs_first: bool = True

    def rows(self, array: NDArray[Any], samples: int) -> NDArray[Any]:
        """Return the patches of one sample's input, evenly thinned so that `samples` give enough in all."""
        wanted = max(256, -(-_ROWS * self.size // max(samples, 1)))
        if not self.kernel:
            flat = array.reshape(-1, array.shape[-1])
            return flat[:: max(1, len(flat) // wanted)][None]
        padded = np.pad(array, ((0, 0), (0, 0), *self.pads))
        reach = tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))
        axes = tuple(range(2, array.ndim))
        view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
        spatial = len(axes)
        places: tuple[Any, ...] = (slice(None), slice(None), *(slice(None, None, s) for s in self.strides))
        view = view[(*places, *(slice(None, None, d) for d in self.dilations))]
        channels = array.shape[1] // self.groups
        outer = view.shape[2 : 2 + spatial]
        index = np.unravel_index(np.arange(0, int(np.prod(outer)), self._stride(outer, len(array), wanted)), outer)
        everything: tuple[Any, ...] = (slice(None), slice(None))
        picked: NDArray[Any] = view[(*everything, *index)]  # [N, C, rows, *kernel]
        picked = picked.reshape(len(array), self.groups, channels, len(index[0]), -1)
        return picked.transpose(1, 0, 3, 2, 4).reshape(self.groups, -1, self.size)

    def split(self, weight: NDArray[Any]) -> NDArray[np.float64]:
        """Return the weight as f64[groups, outputs, size]."""
        if not self.kernel:
            return np.asarray(weight if self.outputs_first else weight.T, np.float64)[None]
        reals = np.asarray(weight, np.float64)
        return reals.reshape((self.groups, int(weight.shape[0]) // self.groups, self.size))

    def join(self, rows: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """Return rows as a weight of the given shape."""
        if not self.kernel:
            matrix: NDArray[Any] = rows[0]
            return matrix if self.outputs_first else matrix.T
        joined: NDArray[Any] = rows.reshape(tuple(shape))
        return joined

    @staticmethod
    def _stride(outer: Sequence[int], samples: int, wanted: int) -> int:
        stride = max(1, int(np.prod(outer)) * samples // wanted)
        # A stride that divides a row's length would always take the same columns.
        return stride + 1 if stride > 1 and outer[-1] % stride == 0 else stride


def patches_of(unit: Unit) -> Patches | None:
    """Return how a unit reads its input; None where padding follows from sizes that only a run tells."""
    assert unit.weight is not None
    node, shape = unit.node, unit.weight.shape
    if unit.kind != "conv":
        first = output_axis(unit) == 0
        return Patches(1, shape[1] if first else shape[0], outputs_first=first)
    automatic = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if automatic not in ("NOTSET", "VALID"):
        return None
    spatial = len(shape) - 2
    pads = _ints(node, "pads", (0,) * (2 * spatial)) if automatic == "NOTSET" else (0,) * (2 * spatial)
    return Patches(
        node.attributes["group"].as_int() if "group" in node.attributes else 1,
        int(np.prod(shape[1:])),
        tuple(shape[2:]),
        _ints(node, "strides", (1,) * spatial),
        _ints(node, "dilations", (1,) * spatial),
        tuple(zip(pads[:spatial], pads[spatial:], strict=True)),
    )


def _ints(node: ir.Node, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(node.attributes[name].as_ints()) if name in node.attributes else default
