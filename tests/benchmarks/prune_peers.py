"""Other tools' structured pruning, each made to save at least a share of the MACs, for the pruning benchmark."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator
from typing import Any

from mopt.analysis.cost import cost
from mopt.ir import Module, from_proto, to_proto

SHARES = tuple(share / 40 for share in range(4, 37))
"""Shares of channels that are tried, from the least, until enough MACs are saved: 10%, 12.5% … 90%."""
Export = Callable[[Any], Module]
"""Make a module of a PyTorch network and simplify it as mopt's own candidate is simplified."""


def until(
    amount: float, before: Module, cut: Callable[[float], Module], sizes: dict[str, int]
) -> tuple[Module | None, dict[str, Any]]:
    """Cut more and more until `amount` of the MACs is saved; return the smaller module (None) and what to say."""
    whole, best, saved = cost(before, sizes).macs, None, 0.0
    for share in SHARES:
        try:
            found = cut(share)
        except Exception as error:
            return None, {"fails": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160]}"}
        best, saved = found, 1 - cost(found, sizes).macs / whole
        if saved >= amount:
            return best, {"channels": share, "macs_saved": saved}
    return best, {"channels": SHARES[-1], "macs_saved": saved}


def by_torch_pruning(network: Any, example: tuple[Any, ...], export: Export) -> Callable[[float], Module]:
    """Torch-Pruning (Fang et al. 2023): L1 of whole groups, layers that end in an output left alone."""
    import torch
    import torch_pruning

    def cut(share: float) -> Module:
        smaller = copy.deepcopy(network)
        heads = [layer for layer in (getattr(smaller, name, None) for name in ("head", "classifier", "heads")) if layer]
        # Its own default rounds sizes of grouped layers only; 8 is what mopt's candidate is rounded to.
        with _quiet():
            torch_pruning.pruner.MagnitudePruner(
                smaller, example, importance=torch_pruning.importance.MagnitudeImportance(p=1), pruning_ratio=share,
                ignored_layers=[inner for head in heads for inner in head.modules()], round_to=8,
            ).step()  # fmt: skip
            with torch.inference_mode():
                smaller(*example)
            return export(smaller)

    return cut


def by_zeros(network: Any, export: Export) -> Callable[[float], Module]:
    """`torch.nn.utils.prune.ln_structured`, layer by layer: zeros in graphs of the same size."""
    import torch
    from torch.nn.utils import prune

    def cut(share: float) -> Module:
        smaller = copy.deepcopy(network)
        for layer in smaller.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                prune.ln_structured(layer, "weight", amount=share, n=1, dim=0)
                prune.remove(layer, "weight")
        with _quiet():
            return export(smaller)

    return cut


def by_onnxsim(before: Module) -> Callable[[float], Module]:
    """onnxsim's `apply_structured_pruning`: channels between one layer and the next, and some residual sums."""
    import onnxsim

    proto = to_proto(before)

    def cut(share: float) -> Module:
        with _quiet():
            return from_proto(onnxsim.apply_structured_pruning(proto, sparsity=share, importance_norm="l1"))

    return cut


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
