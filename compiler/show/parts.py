"""`mopt show model.parts.json`: which parts a graph was cut into, what each runs with, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

_SHOWN: Final = 12


def render_parts(path: Path, listed: Mapping[str, Any], console: Console, *, everything: bool = False) -> None:
    """Print the list of parts that `mopt.runtime.trt.parts.read_parts` returns.

    Args:
        path: where it was read from.
        listed: what it says.
        console: where to print.
        everything: all reasons, not the first few of each part.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    built = ", ".join(f"{name} {version}" for name, version in listed.get("built_by", {}).items())
    console.print(Text(f"{path}: {len(listed['parts'])} parts, built by {built}", "bold"), soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("file", "runs with", "nodes", "operators", "takes", "gives"):
        table.add_column(title)
    for part in listed["parts"]:
        operators = ", ".join(f"{name} {count}" for name, count in list(part["operators"].items())[:4])
        more = len(part["operators"]) - 4
        table.add_row(
            Text(part["file"]), part["runtime"], str(len(part["nodes"])),
            Text(operators + (f" and {more} more" if more > 0 else "")),
            Text(", ".join(part["inputs"])), Text(", ".join(part["outputs"])),
        )  # fmt: skip
    console.print(table)
    for part in listed["parts"]:
        reasons = list(part.get("reasons", {}).items())
        shown = reasons if everything else reasons[:_SHOWN]
        for node, why in shown:
            console.print(Text(f"{part['file']}: {node}: {why}"), soft_wrap=True)
        if len(shown) < len(reasons):
            console.print(Text(f"… {len(reasons) - len(shown)} more; --all lists them"))
