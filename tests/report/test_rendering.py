"""The results table: every figure shown is one that was measured, in every rendering."""

import io
import json
from dataclasses import replace

import pytest
from mopt.build.outcome import Failure
from mopt.build.rows import Latency, RequirementResult, Row
from mopt.report import Results, markdown_report, print_results
from mopt.report.results import StepReport
from mopt.report.table import columns, count, footnotes, milliseconds
from rich.console import Console

ROWS = (
    Row(
        "original",
        "cpu",
        "ok",
        model="m",
        parameters=1_492_000,
        nonzero=1_492_000,
        macs=2_500_000_000,
        bytes=5_849 * 1024,
        compressed=5_400 * 1024,
        latency={1: Latency(3.886, 3.8, 4.0)},
        metrics={"cer": 0.0498912, "exact": None},
        baseline="original",
    ),
    Row(
        "pruned",
        "cpu",
        "ended",
        model="m",
        parameters=1_213_000,
        nonzero=600_000,
        macs=1_900_000_000,
        bytes=4_000 * 1024,
        compressed=3_000 * 1024,
        latency={1: Latency(3.432, 3.4, 3.5, 0.883, 0.87, 0.9, "faster"), 8: Latency(25.0, 24, 26)},
        metrics={"cer": 0.0507771, "exact": 0.5},
        requirements=(RequirementResult("cer <= 5%", False, 0.0507771, 0.05),),
        baseline="original",
    ),
    Row("pruned", "gpu", "ok", untimed="no GPU here", metrics={"cer": 0.05}, judged_by="onnxruntime"),
    Row("broken", "cpu", "failed", failure=Failure("pass", "prune: no", "r.mopt:3:5")),
)


def results(rows=ROWS, **fields):
    return Results(
        recipe="r.mopt",
        title="A CRNN",
        rows=rows,
        goals={"cer": "min", "exact": "max"},
        steps={"pruned": (StepReport("pruned@1", "prune()", 1.5, False, True, {"max_rel": 0.01}, "−3 nodes", ("a",)),)},
        failures=(),
        machine={"processor": "one"},
        output="build/r",
        **fields,
    )


def shown(width, rows=ROWS):
    stream = io.StringIO()
    print_results(results(rows), Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def test_cells():
    cells = {column.head: column.cells for column in columns(results())}
    assert cells["params"] == ("1.492M", "1.213M", "–", "–")
    assert cells["non-zero"] == ("100.0%", "49.5%", "–", "–")
    assert cells["MACs"][0] == "2.500G"
    assert cells["KiB"][0] == "5,849"
    assert cells["ms, batch 1"] == ("3.89 ±0.1", "3.43 ±0.05", "–", "–")
    assert cells["× base"][:2] == ("1", "0.88")
    assert cells["cer ↓"] == ("0.0499", "0.0508", "0.0500", "–")
    assert cells["exact ↑"] == ("–", "0.5000", "–", "–")
    assert cells["require"][1] == "✗"
    assert cells["status"][3] == "failed"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200, 300])
def test_no_cell_is_cut_at_any_width(width):
    text = shown(width)
    for column in columns(results()):
        for cell in (column.head, *column.cells):
            assert cell in text, cell
    assert "…" not in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_name_runs_over_lines_and_cuts_no_figure(width):
    """A variant's name holds its choices; each has a line of its own where they do not fit."""
    name = "placed[activation_correction=true, method=percentile, budget=10%]" + "x" * 200
    rows = (replace(ROWS[0], pipeline=name), *ROWS[1:])
    text = shown(width, rows)
    for column in columns(results(rows))[1:]:
        for cell in (column.head, *column.cells):
            assert cell in text, cell
    assert "…" not in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "method=percentile," in text


def test_wide_terminals_get_one_table():
    assert shown(300).count("pipeline") == 1
    assert shown(80).count("pipeline") > 1


def test_footnotes_say_what_a_reader_must_know():
    text = "\n".join(footnotes(results(skipped={"gpu": "no TensorRT"}, synthetic=("noise",))))
    assert "× base: time over that of original" in text
    assert "gpu: not timed: no GPU here" in text
    assert "gpu: metrics measured with onnxruntime" in text
    assert "✗ pruned: `cer <= 5%`: 0.0507771 against 0.05" in text
    assert "broken: r.mopt:3:5: prune: no" in text
    assert "target `gpu` left out: no TensorRT" in text
    assert "made-up data" in text


def test_markdown_has_a_row_for_each_row_and_a_line_for_each_step():
    text = markdown_report(results())
    assert text.count("\n| pruned |") == 2
    assert "1. `prune()`; −3 nodes; drift 1.00e-02\n   - a" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1


def test_json_round_trips():
    data = json.loads(json.dumps(results().to_json(), allow_nan=False))
    assert data["rows"][1]["latency"]["1"]["ratio"] == 0.883
    assert data["exit_status"] == 3


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        (ROWS[:1], 0),
        (ROWS[:2], 1),
        (ROWS, 3),
        ((*ROWS, Row("x", "y", "failed", failure=Failure("bug", "?"))), 70),
        ((ROWS[0], Row("x", "y", "unavailable", failure=Failure("target", "?"))), 4),
        ((Row("x", "y", "ok", requirements=(RequirementResult("a", None, reason="no GPU"),)),), 4),
    ],
)
def test_exit_status_is_the_most_severe(rows, status):
    assert results(rows).exit_status == status


def test_numbers():
    assert [count(n) for n in (None, 0, 999, 1000, 86_050, 1_492_000, 3_000_000_000)] == [
        "–", "0", "999", "1.000k", "86.050k", "1.492M", "3.000G",
    ]  # fmt: skip
    assert [milliseconds(x) for x in (0.03391, 1.0, 53.708, 1090.4)] == ["0.0339", "1", "53.7", "1090"]
