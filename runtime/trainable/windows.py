"""Where the sliding windows of a convolution or pooling lie, by ONNX's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from mopt.runtime.trainable.operator import Call
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """The form of a sliding window over some axes, each field one number an axis.

    Attributes:
        kernel: elements of a window.
        strides: steps between windows.
        dilations: steps between a window's elements.
        pads: declared padding, first at the begins and then at the ends of all axes.
        auto: `NOTSET` (what is declared holds), `SAME_UPPER`, `SAME_LOWER` or `VALID`.
        ceil: windows that reach over the end by part of a stride count too.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto: str = "NOTSET"
    ceil: bool = False

    @classmethod
    def of(cls, call: Call, kernel: Sequence[int] | None = None) -> Windows:
        """Read a node's attributes; the kernel's sizes are given where they come from a weight."""
        sizes = tuple(kernel if kernel is not None else call.attribute("kernel_shape"))
        rank = len(sizes)
        return cls(
            sizes,
            tuple(call.attribute("strides", (1,) * rank)),
            tuple(call.attribute("dilations", (1,) * rank)),
            tuple(call.attribute("pads", (0,) * (2 * rank))),
            call.attribute("auto_pad", "NOTSET"),
            bool(call.attribute("ceil_mode", 0)),
        )

    def extent(self, axis: int) -> int:
        """Elements from a window's first to its last, both counted."""
        return self.dilations[axis] * (self.kernel[axis] - 1) + 1

    def padding(self, sizes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the padding (begin, end) of every axis for an input of these sizes."""
        rank = len(self.kernel)
        if self.auto == "VALID":
            return [(0, 0)] * rank
        if self.auto in ("SAME_UPPER", "SAME_LOWER"):
            sides = []
            for axis, size in enumerate(sizes):
                count = -(-size // self.strides[axis])
                total = max(0, (count - 1) * self.strides[axis] + self.extent(axis) - size)
                less = total // 2
                sides.append((less, total - less) if self.auto == "SAME_UPPER" else (total - less, less))
            return sides
        return [(self.pads[axis], self.pads[axis + rank]) for axis in range(rank)]

    def count(self, axis: int, size: int, pads: tuple[int, int]) -> int:
        """Return how many windows lie along an axis; one that would start in the end's padding does not count."""
        room = (size + sum(pads) - self.extent(axis)) / self.strides[axis]
        count = (ceil(room) if self.ceil and self.auto == "NOTSET" else floor(room)) + 1
        if self.ceil and (count - 1) * self.strides[axis] >= size + pads[0]:
            count -= 1
        return count

    def overhang(self, axis: int, size: int, pads: tuple[int, int]) -> int:
        """Return how far the last window reaches over the padded end (0 or more)."""
        last = (self.count(axis, size, pads) - 1) * self.strides[axis] + self.extent(axis)
        return max(0, last - size - sum(pads))

    def cut(self, x: Tensor) -> Tensor:
        """Return the windows over the last axes of a padded tensor: the windows' axes, then the kernel's."""
        first = x.dim() - len(self.kernel)
        for axis in range(len(self.kernel)):
            x = x.unfold(first + axis, self.extent(axis), self.strides[axis])[..., :: self.dilations[axis]]
        return x
