"""The report as Markdown: the table, what each step did, and where the figures were taken."""

from __future__ import annotations

from mopt.report.results import Results, StepReport
from mopt.report.table import columns, footnotes


def markdown_report(results: Results) -> str:
    """Return the whole report."""
    lines = [f"# {results.title or results.recipe}", ""]
    if results.rows:
        shown = columns(results)
        lines.append(_row([column.head for column in shown]))
        lines.append(_row(["---:" if column.numeric else "---" for column in shown]))
        lines.extend(_row([column.cells[index] for column in shown]) for index in range(len(results.rows)))
        lines.append("")
    lines.extend(f"- {note}" for note in footnotes(results))
    lines.append("")
    for name, steps in results.steps.items():
        if steps:
            lines += [f"## {name}", ""]
            lines.extend(_step(number, step) for number, step in enumerate(steps, 1))
            lines.append("")
    lines += ["## Machine", ""]
    lines.extend(f"- {key}: {value}" for key, value in results.machine.items())
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _step(number: int, step: StepReport) -> str:
    parts = [f"{number}. `{step.text}`"]
    if step.failure is not None:
        return f"{parts[0]}: failed: {step.failure.message}"
    parts.append(step.diff if step.modified else "changed nothing")
    if step.drift and "max_rel" in step.drift:
        value = step.drift["max_rel"]
        parts.append(f"drift {value:.2e}" if isinstance(value, float) else f"drift {value}")
    lines = ["; ".join(part for part in parts if part)]
    lines.extend(f"   - {note}" for note in step.notes)
    return "\n".join(lines)
