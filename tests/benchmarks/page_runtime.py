"""Tables of the benchmark page about what runs models: the profiler, and the trainable runner."""

from __future__ import annotations

from typing import Any


def profiler_table(results: Any) -> str:
    """A row for each model: overhead, equal sessions, a true difference of 5 %, two calls."""
    lines = [
        "| model | ms | over a bare loop | equal, no difference | of five | 5% slower, found | two calls agree | "
        "any two | processes |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results["models"].items():
        count, (same, compared) = row["comparisons"], row["of_five_no_difference"]
        lines.append(
            f"| {name} | {row['ms']:.3g} | {row['overhead']['ratio']:.3f} × | "
            f"{row['equal_no_difference']} of {count} | {same} of {compared} | {row['slower_found']} of {count} | "
            f"{row['calls_agree']:.0%} | "
            f"{row['any_two_calls_agree']:.0%} | {row['processes_running']:.0f} |"
        )
    return "\n".join(lines)


def trainable_table(results: Any) -> str:
    """A row for each network: a step and its memory, PyTorch's module and the runner."""
    lines = [
        "| network | step, PyTorch | runner | ratio | memory, PyTorch | runner | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results["models"].items():
        step, memory = row["step"], row["memory"]
        lines.append(
            f"| {name} | {step['native_ms']:,.0f} ms | {step['runner_ms']:,.0f} ms | {step['ratio']:.2f} | "
            f"{memory['native_mb']:,.0f} MB | {memory['runner_mb']:,.0f} MB | {memory['ratio']:.2f} |"
        )
    return "\n".join(lines)
