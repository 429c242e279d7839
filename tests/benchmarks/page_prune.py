"""The tables of pruning and clustering in `docs/benchmarks.md`."""

from __future__ import annotations

from typing import Any

PEERS = ("onnxsim", "Torch-Pruning")
FIGURES = {"exact": "exact lines", "cer": "character error rate", "agreement": "class as before", "cosine": "cosine",
           "correlation": "correlation of scores"}  # fmt: skip


def _time(ratio: Any) -> str:
    """A ratio with its interval."""
    if ratio["high"] > 1.5 * ratio["low"]:
        return "too noisy to tell"
    return f"{ratio['value']:.2f} × ({ratio['low']:.2f} – {ratio['high']:.2f})"


def _builds(engine: Any) -> str:
    return f"{engine['bytes'] / 2**20:.1f}" if engine["builds"] else "fails"


def prune_table(results: Any) -> str:
    """A row for each network: groups, MACs, time, engines."""
    lines = [
        "| network | channels | from | groups cut | MACs | time | `round_to=16`: MACs | time | engine, MiB |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results["rows"].items():
        cut, engine = row["cut"], row["trt"]
        groups = f"{cut['round_to=8']} of {row['can_be_cut']}"
        if cut["round_to=1"] != cut["round_to=8"]:
            groups += f" (`round_to=1`: {cut['round_to=1']})"
        lines.append(
            f"| {name} | {row['shape']} | {row['framework']} | {groups} | -{row['macs_saved']:.1%} | "
            f"{_time(row['time']['mopt'])} | -{row['macs_saved_16']:.1%} | {_time(row['time']['mopt, round_to=16'])} | "
            f"{_builds(engine['whole'])} → {_builds(engine['cut'])} |"
        )
    return "\n".join(lines)


def prune_peers(results: Any) -> str:
    """A row for each network: what other tools make of it."""
    lines = ["| network | onnxsim: MACs, time | Torch-Pruning: MACs, time |", "|---|---|---|"]
    for name, row in results["rows"].items():
        lines.append(f"| {name} | {' | '.join(_peer(row, peer) for peer in PEERS)} |")
    return "\n".join(lines)


def _peer(row: Any, peer: str) -> str:
    found = row["peers"].get(peer)
    if found is None:
        return "not a PyTorch network"
    if "fails" in found:
        where = f"at {found['channels']:.0%} of the channels, " if "channels" in found else ""
        return f"fails: {where}{_reason(found['fails'])}"
    saved = f"-{found['macs_saved']:.1%}"
    if found["macs_saved"] == 0:
        return "cuts nothing"
    short = "" if found["macs_saved"] >= 0.3 else f" at most (asked for {found['channels']:.0%} of the channels)"
    time = row["time"].get(peer)
    return f"{saved}{short}, {_time(time)}" if time else f"{saved}{short}"


def _reason(text: str) -> str:
    """The gist of another tool's error, on one line and without what would end a cell."""
    for known, said in {
        "bias must be a 1D tensor": "onnxruntime can't run what it wrote (biases of the old size)",
        "ShapeInferenceError": "onnxruntime refuses what it wrote",
        "[ShapeI": "onnxruntime refuses what it wrote",
        "RunError": "onnxruntime can't run what it wrote",
        "DataError": "onnxruntime can't run what it wrote",
    }.items():
        if known in text:
            return said
    return f"`{text.replace('|', '/')[:90].strip()}`"


def prune_accuracy(results: Any) -> str:
    """A row for each network that is judged."""
    ways = {"float": "whole", "mopt": "cut", "mopt, data": "`data`", "mopt, global, data": "`scope=global`, `data`",
            "onnxsim": "onnxsim", "Torch-Pruning": "Torch-Pruning"}  # fmt: skip
    lines = [f"| network | judged by | {' | '.join(ways.values())} |", f"|---|---|{'---:|' * len(ways)}"]
    for name, row in results["rows"].items():
        for figure in row.get("judged", {}).get("float", {}):
            cells = [
                f"{row['judged'][way][figure]:.3f}" if way in row["judged"] and _cut(row, way) else "–" for way in ways
            ]
            lines.append(f"| {name} | {FIGURES[figure]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cut(row: Any, way: str) -> bool:
    return way not in row["peers"] or row["peers"][way].get("macs_saved", 0) >= 0.3


def tenth_table(results: Any) -> str:
    """Agreement of a vision transformer of which a tenth was taken away."""
    found = results["tenth of a ViT"]
    lines = [f"| way | MACs | class as before ({found['images']:,} images) |", "|---|---:|---:|"]
    for name, row in found["rows"].items():
        saved = f"-{row['macs_saved']:.1%}" if row["macs_saved"] else "as before"
        lines.append(f"| `{name}` | {saved} | {row['agreement']:.4f} |")
    return "\n".join(lines)


def cluster_table(results: Any) -> str:
    """Rows for each network: file, figure, time."""
    lines = ["| network | way | file | ratio | judged by | | time |", "|---|---|---:|---:|---|---:|---:|"]
    for name, network in results["rows"].items():
        whole = network["ways"]["float"]["bytes"]
        for way, row in network["ways"].items():
            if "fails" in row:
                lines.append(f"| {name} | {way} | fails: {_reason(row['fails'])} | | | | |")
                continue
            ((figure, value),) = row["judged"].items()
            size, ratio = ("–", "–")
            if "bytes" in row:
                size, ratio = f"{row['bytes'] / 1024:,.0f} KiB", f"{whole / row['bytes']:.1f} ×"
            time = _time(row["time"]) if "time" in row else ""
            lines.append(f"| {name} | {way} | {size} | {ratio} | {FIGURES[figure]} | {value:.3f} | {time} |")
    return "\n".join(lines)
