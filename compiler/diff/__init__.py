"""What differs between two modules: two steps of a build, or any two ONNX files.

    difference = diff(load("before.onnx"), load("after.onnx"))
    print(difference.summary())
    render_terminal(difference, Console())

Nodes are paired by provenance first and by structure second, never by name alone (see `mopt.diff.match`).
Importing this package is cheap; onnx and numpy come with the first comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopt.diff.model import Diff

if TYPE_CHECKING:
    from mopt.analysis.cost import Cost
    from mopt.ir.module import Module
    from rich.console import Console

__all__ = ["Diff", "diff", "render_terminal"]


def diff(
    a: Module,
    b: Module,
    *,
    weights: bool = True,
    labels: tuple[str, str] = ("before", "after"),
    bindings: Mapping[str, int] | None = None,
    step: str | None = None,
    costs: tuple[Cost, Cost] | None = None,
) -> Diff:
    """Compare two modules; neither is changed.

    Args:
        a: the first side.
        b: the second side.
        weights: compare the contents of weights, too; without, element types and shapes only.
        labels: what to call the two sides.
        bindings: sizes of dynamic dimensions, by name, for the cost.
        step: the step that lies between the two, held responsible where provenance says nothing.
        costs: of the two sides at `bindings`, where already known: counting them takes longer than the rest.
    """
    from mopt.diff.compare import Input, compare

    sides = tuple(
        Input(module, label, None if costs is None else costs[i])
        for i, (module, label) in enumerate(zip((a, b), labels, strict=True))
    )
    return compare(sides[0], sides[1], weights=weights, bindings=bindings, step=step)


def render_terminal(difference: Diff, console: Console, *, all: bool = False) -> None:
    """Print a diff: the summary first, then what changed, long lists folded unless `all`."""
    from mopt.diff.terminal import render

    render(difference, console, everything=all)
