"""What a module is: interface, operators, cost by node and by source layer, weights, metadata.

    summary = show(load("model.onnx"))
    render_terminal(summary, Console())

Importing this package is cheap; onnx and numpy come with the first summary. The graph itself, node by node, is
`mopt.ir.print_module`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mopt.ir.module import Module
    from mopt.show.summary import ModelSummary
    from rich.console import Console

__all__ = ["render_terminal", "show"]


def show(
    module: Module, *, bindings: Mapping[str, int] | None = None, label: str = "", weights: bool = True
) -> ModelSummary:
    """Summarise a module; it is not changed.

    Args:
        module: a loaded file or a step of a build.
        bindings: sizes of dynamic dimensions, by name, for the cost.
        label: what to call it; the graph's own name if empty.
        weights: look into the contents of the weights (zeros, distinct values), which reads all of them.
    """
    from mopt.show.summary import summarise

    return summarise(module, bindings=bindings, label=label, measured=weights)


def render_terminal(summary: ModelSummary, console: Console, *, all: bool = False) -> None:
    """Print a summary, long lists folded unless `all`."""
    from mopt.show.terminal import render

    render(summary, console, everything=all)
