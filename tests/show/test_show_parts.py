"""`mopt show model.parts.json`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from mopt.cli.looking import show_command
from mopt.runtime.contract import TargetError


@pytest.fixture
def listed(tmp_path):
    parts = [
        {"file": "part1.engine", "runtime": "tensorrt", "operators": {"Conv": 2, "Relu": 1}, "nodes": ["a", "b", "c"],
         "inputs": ["x"], "outputs": ["h"]},
        {"file": "part2.onnx", "runtime": "onnxruntime", "operators": {"Det": 1}, "nodes": ["d"], "inputs": ["h"],
         "outputs": ["y"], "reasons": {"node `d` (Det) of layer `head`": "it has no operator Det"}},
    ]  # fmt: skip
    for part in parts:
        (tmp_path / part["file"]).write_bytes(b"")
    path = tmp_path / "model.parts.json"
    path.write_text(json.dumps({"built_by": {"mopt": "1", "tensorrt_rtx": "1.7"}, "parts": parts}))
    return path


def test_parts_and_reasons_are_printed(listed):
    done = CliRunner().invoke(show_command, [str(listed)], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "2 parts, built by mopt 1, tensorrt_rtx 1.7" in done.output
    assert "Conv 2, Relu 1" in done.output and "onnxruntime" in done.output
    assert "part2.onnx: node `d` (Det) of layer `head`: it has no operator Det" in done.output


def test_as_json(listed):
    done = CliRunner().invoke(show_command, [str(listed), "--json"])
    assert json.loads(done.output)["parts"][1]["nodes"] == ["d"]


def test_a_missing_part_is_told(listed):
    listed.with_name("part1.engine").unlink()
    done = CliRunner().invoke(show_command, [str(listed)])
    assert isinstance(done.exception, TargetError) and "part1.engine is not beside it" in str(done.exception)
