"""`mopt store`: what is kept of compiles, and how to make it less."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any, Final

import click
from mopt.cli.building import STORE
from mopt.grammar.tokens import UNITS

_DURATIONS: Final = {unit: scale for unit, (kind, scale) in UNITS.items() if kind == "duration"} | {
    "d": 86400.0,
    "w": 7 * 86400.0,
}
_SIZES: Final = {unit: scale for unit, (kind, scale) in UNITS.items() if kind == "size"}


def _duration(text: str) -> float:
    return _quantity(text, "duration", _DURATIONS, "`30d`, `12h`")


def _size(text: str) -> float:
    return _quantity(text, "size", _SIZES, "`10GiB`, `500MB`")


def _quantity(text: str, name: str, units: dict[str, float], examples: str) -> float:
    """Read a number with a unit, in base units."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([^\W\d]+)", text.strip())
    number = float(match[1]) * units[match[2]] if match is not None and match[2] in units else math.inf
    if not math.isfinite(number):
        raise click.BadParameter(f"{text!r} is no {name}: write {examples}")
    return number


@click.group("store", invoke_without_command=True)
@STORE
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def store_command(context: click.Context, store: Path | None, as_json: bool) -> int:
    """Show what the store holds: finished steps, models, engines, measurements; how large, and how long unused."""
    context.obj = store
    if context.invoked_subcommand is not None:
        return 0
    from mopt.rendering.quantities import size
    from mopt.store import Store, default_root
    from mopt.store.pruning import KINDS, contents

    kept = Store(store or default_root())
    found, now = contents(kept), time.time()
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        entries = [entry for entry in found.entries if entry.kind == kind]
        oldest = (now - min(entry.used for entry in entries)) / 86400 if entries else None
        rows.append(
            {"kind": kind, "count": len(entries), "bytes": sum(one.bytes for one in entries), "oldest_days": oldest}
        )
    rows.insert(
        1, {"kind": "tensors", "count": len(found.tensors), "bytes": sum(found.tensors.values()), "oldest_days": None}
    )
    if as_json:
        print(json.dumps({"store": str(kept.root), "bytes": found.bytes, "kinds": rows}, indent=1))
        return 0
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(f"in {kept.root}")
    for head in ("number", "size", "longest unused"):
        table.add_column(head, justify="right")
    for row in rows:
        days = row["oldest_days"]
        table.add_row(
            row["kind"], f"{row['count']:,}", size(row["bytes"]), "" if days is None else f"{max(days, 0):.0f} days"
        )
    table.add_row("in all", "", size(found.bytes), "")
    Console(highlight=False).print(table)
    return 0


@store_command.command("prune")
@STORE
@click.option("--unused", type=_duration, metavar="TIME",
              help="Remove what was not used for so long: `30d`, `12h`.")  # fmt: skip
@click.option("--keep", type=_size, metavar="SIZE",
              help="Remove what was not used for longest, until so much is left: `10GiB`.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
@click.option("--dry-run", "dry", is_flag=True, help="Only say what would be removed.")
@click.pass_context
def prune_command(
    context: click.Context, store: Path | None, unused: float | None, keep: float | None, everything: bool, dry: bool
) -> int:
    """Make the store smaller. Nothing is lost for good: what a compile needs again is made again.

    Output folders keep their models and reports; `mopt show BUILD/PIPELINE@STEP` needs the store.
    """
    from mopt.rendering.quantities import plural, size
    from mopt.store import Store, default_root
    from mopt.store.pruning import prune

    if unused is None and keep is None and not everything:
        raise click.UsageError("say what to remove: --unused 30d, --keep 10GiB, or --all")
    kept = Store(store or context.obj or default_root())
    removed = prune(kept, unused=0.0 if everything else unused, keep=None if keep is None else round(keep), dry=dry)
    what = ", ".join(plural(count, kind.removesuffix("s")) for kind, count in sorted(removed.counts.items()) if count)
    verb = "would remove" if dry else "removed"
    print(f"{verb} {what or 'nothing'} ({size(removed.bytes)}); {size(removed.left)} left in {kept.root}")
    return 0


COMMANDS = (store_command,)
