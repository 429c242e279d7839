"""What a cut saves, from the sizes that stay, without making it: parameters and MACs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from mopt.analysis.cost import cost
from mopt.analysis.coupling import Couplings
from mopt.analysis.coupling.linear import GATES
from mopt.ir import Module
from mopt.passes.prune.channels_cut import Masks, kept_masks
from mopt.rewrite.attributes import integer
from numpy.typing import NDArray


class Estimate:
    """The share of a module's parameters or MACs that a cut takes away.

    Args:
        whole: what the share is one of; by default what the module has.
    """

    def __init__(
        self, module: Module, couplings: Couplings, of: str, bindings: Mapping[str, int], whole: float | None = None
    ) -> None:
        self._c = couplings
        self._of = of
        counted = cost(module, bindings)
        now = counted.parameters if of == "parameters" else counted.macs
        self.total = now if whole is None else whole
        self._gone = self.total - now
        self._macs = [
            (node, macs) for node in module.graph if (macs := counted.per_node[node.name or ""].macs) > 0
        ] if of == "macs" else []  # fmt: skip
        self._weights = [weight for weight in module.weights() if weight.is_parameter] if of == "parameters" else []

    def saved(self, atoms: NDArray[np.int64]) -> float:
        """Return the share that goes with these atoms."""
        if self.total == 0:
            return 0.0
        masks = kept_masks(self._c, atoms)
        if self._of == "parameters":
            lost = sum(weight.size * (1 - _share(masks, weight.value)) for weight in self._weights)
        else:
            lost = sum(macs * (1 - self._node(masks, node)) for node, macs in self._macs)
        return (self._gone + lost) / self.total

    def _node(self, masks: Masks, node: ir.Node) -> float:
        """Return the share of a node's MACs that stays: each is a product of sizes."""
        if node.op_type in ("Conv", "ConvTranspose"):
            return _share(masks, node.inputs[1])
        if node.op_type in GATES:
            sizes = [math.prod(size or 1 for size in self._c.sizes[value]) for value in node.inputs[1:3] if value]
            kept = [_share(masks, value) * size for value, size in zip(node.inputs[1:3], sizes, strict=True)]
            return sum(kept) / sum(sizes)
        if node.op_type in ("MatMul", "Gemm"):
            left, rank = node.inputs[0], self._c.rank(node.outputs[0])
            inner = self._c.rank(left) - 1 if left is not None else 0
            if node.op_type == "Gemm" and integer(node, "transA", 0):
                inner = 0
            return _share(masks, node.outputs[0]) * _axis(masks, left, inner) if rank else 1.0
        return _share(masks, node.outputs[0])


def _share(masks: Masks, value: ir.Value | None) -> float:
    """Return the share of a tensor's elements that stays."""
    return math.prod(_axis(masks, value, axis) for axis in (masks.get(value, {}) if value is not None else ()))


def _axis(masks: Masks, value: ir.Value | None, axis: int) -> float:
    mask = masks.get(value, {}).get(axis) if value is not None else None
    return 1.0 if mask is None else float(mask.mean())
