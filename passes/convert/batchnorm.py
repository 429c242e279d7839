"""Fold batch normalisation at inference into the convolution or matrix product before it.

gamma (W x + b - mean) / sqrt(var + eps) + beta = (s W) x + (s (b - mean) + beta), s = gamma / sqrt(var + eps)
"""

from __future__ import annotations

from typing import ClassVar

from mopt.ir.module import Module
from mopt.passes.simplify.ruleset.linear import FoldAffine
from mopt.rewrite import Miss, View, apply_rules


class FoldBatchNormalization(FoldAffine):
    """The simplifier's rule, at batch normalisations only."""

    name: ClassVar[str] = "fold-batchnorm"
    anchors = ("BatchNormalization",)  # type: ignore[assignment]  # fewer than the rule it narrows


def fold_batchnorm(module: Module) -> tuple[list[str], list[tuple[str, str]]]:
    """Fold in place; return the names of the nodes folded, and those kept with the reason."""
    before = [node.name or "" for node in module.nodes() if node.op_type == "BatchNormalization"]
    if not before:
        return [], []
    rule = FoldBatchNormalization()
    apply_rules(module, [rule], by="convert")
    module.touch()
    view = View(module)
    kept = []
    for node in module.nodes():
        if node.op_type == "BatchNormalization":
            found = rule.match(view, node)
            kept.append((node.name or "", found.reason if isinstance(found, Miss) else "the rewrite did not converge"))
    left = {name for name, _ in kept}
    return [name for name in before if name not in left], kept
