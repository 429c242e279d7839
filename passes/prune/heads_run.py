"""Pruning by attention heads: the groups that attention scores are batched by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir
from mopt.analysis.coupling import Couplings, Group
from mopt.ir import Module
from mopt.passes.contract import Context, PassError, PassResult
from mopt.passes.prune.channels import Channels
from mopt.passes.prune.channels_run import Choice
from mopt.passes.prune.channels_run import prune as prune_channels
from mopt.rewrite.attributes import integer
from mopt.rewrite.constants import any_constant

if TYPE_CHECKING:
    from mopt.passes.prune.heads import Heads

_BETWEEN: Final = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Cast", "Identity", "Clip", "Max", "Min", "Reshape"})
"""What stands between scores and their softmax: scaling, masks, relative positions."""


def prune(module: Module, options: Heads, context: Context) -> PassResult:
    """Cut what `options` asks for, in place. See `Heads.run`."""
    channels = Channels(
        amount=options.amount,
        criterion=options.criterion,
        scope=options.scope,
        only=options.only,
        skip=options.skip,
        data=options.data,
        correct=options.correct,
    )
    return prune_channels(module, channels, context, about=_with_heads(module), what="heads")


def _with_heads(module: Module) -> Choice:
    """Choose the groups whose indices are heads."""

    def choose(coupled: Couplings, groups: Sequence[Group]) -> list[Group]:
        ends = [end for node in module.graph for end in _heads(coupled, node)]
        if not ends:
            raise PassError(
                "there is no attention here: no softmax over products of two computed tensors",
                help="prune.channels cuts what other layers have; simplify() first may uncover attention's products",
            )
        ids = np.concatenate([coupled.ids(*end) for end in ends])
        heads = np.unique(coupled.elements.find(ids))
        return [group for group in groups if np.isin(group.atoms, heads).any()]

    return choose


def _heads(coupled: Couplings, node: ir.Node) -> Iterator[tuple[ir.Value, int]]:
    """Yield the axes that a softmax's scores are batched by."""
    if node.op_type != "Softmax" or node.domain != "" or node.inputs[0] not in coupled.sizes:
        return
    scores = node.inputs[0]
    assert scores is not None
    rank = coupled.rank(scores)
    if rank < 3 or integer(node, "axis", -1 if coupled.opset >= 13 else 1) % rank != rank - 1 or not _attends(scores):
        return
    for axis in range(rank - 2):
        if coupled.size(scores, axis) is not None:
            yield scores, axis


def _attends(scores: ir.Value) -> bool:
    """Say whether these are products of queries and keys."""
    seen: set[ir.Value] = set()
    stack = [scores]
    while stack:
        value = stack.pop()
        maker = value.producer()
        if maker is None or value in seen:
            continue
        seen.add(value)
        if maker.op_type in ("MatMul", "Einsum", "Gemm") and maker.domain == "":
            if all(operand is not None and any_constant(operand) is None for operand in maker.inputs[:2]):
                return True
        elif maker.op_type in _BETWEEN and maker.domain == "":
            stack.extend(operand for operand in maker.inputs if operand is not None)
    return False
