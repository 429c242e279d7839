"""The tables of `quantize.aware`, for `page.py`."""

from __future__ import annotations

from typing import Any


def bits_table(results: Any) -> str:
    """A row for each way to choose grids, a column for each number of bits."""
    found = {row["name"]: row["accuracy"] for row in results["bits"]}
    real = found["float"]
    columns = ("8 bits", "4 bits", "4 bits, edges too", "2 bits")
    lines = [f"| float: {real:.2%} | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|"]
    for method in ("static", "lsq", "pact", "minmax"):
        cells = [_cell(found.get(f"{method}, {column}"), real) for column in columns]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None, real: float) -> str:
    return "" if value is None else f"{value:.2%} ({100 * (value - real):+.2f})"


def narrow_table(results: Any) -> str:
    """A row for each pipeline of `fashion.mopt` that prunes."""
    lines = ["| pipeline | accuracy | parameters | MACs | KiB |", "|---|---:|---:|---:|---:|"]
    for row in results["narrow"]:
        lines.append(
            f"| {row['name']} | {row['accuracy']:.2%} | {row['parameters']:,} | {row['macs']:,} | "
            f"{row['bytes'] / 1024:.0f} |"
        )
    return "\n".join(lines)


def ocr_table(results: Any) -> str:
    """A row for each pipeline of `ocr_aware.mopt`."""
    lines = ["| pipeline | exact | CER | MiB |", "|---|---:|---:|---:|"]
    for row in results["ocr"]:
        lines.append(f"| {row['name']} | {row['exact']:.4f} | {row['cer']:.4f} | {row['bytes'] / 2**20:.1f} |")
    return "\n".join(lines)
