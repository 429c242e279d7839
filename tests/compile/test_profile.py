"""`mopt profile`: what it takes, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mopt.runtime.gpu import gpus
from mopt.values import Location

RECIPES = Path(__file__).parents[2] / "recipes"
QUICK = ("--runs", "5", "--seconds", "0.05")


@pytest.fixture(scope="module")
def model():
    return str(Location("pkg:rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx").resolve())


def test_a_sweep_with_nodes_memory_and_a_chart(mopt_command, model, tmp_path):
    chart = tmp_path / "chart.svg"
    done = mopt_command(
        "profile", model, model, "-b", "1", "-b", "4", "--nodes", "--memory", "--chart", str(chart), "--json", *QUICK
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [point["batch"] for point in found["points"]] == [1, 4]
    first, second = found["runtimes"]
    assert (first, second) == ("ch_ppocr_mobile_v2.0_cls_infer.onnx", "ch_ppocr_mobile_v2.0_cls_infer.onnx (2)")
    ratio = found["points"][0]["models"][second]["ratio"]
    assert ratio["baseline"] == first and ratio["low"] <= ratio["value"] <= ratio["high"]
    assert found["nodes"][first]["operators"] and found["footprints"][first]["peak_bytes"] > 0
    assert found["best_batch"][first] in (1, 4) and found["best_throughput"][first] > 0
    assert found["baseline_is"] == f"{first}, float32"
    assert found["placements"][first]["elsewhere"] == [] and found["placements"][first]["nodes"] > 100
    text = chart.read_text(encoding="utf-8")
    assert text.lstrip().startswith("<?xml") and "ms a sample" in text


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_without_a_gpu_nothing_runs_on_the_cpu_instead(mopt_command, model):
    done = mopt_command("profile", model, "--provider", "cuda", *QUICK)
    assert done.returncode == 4 and done.stdout == ""
    assert "NVIDIA driver" in done.stderr and "help: install" in done.stderr


def test_a_declared_model_runs_in_its_own_framework(mopt_command, tmp_path):
    done = mopt_command("profile", f"{RECIPES / 'quickstart.mopt'}:digits", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "digits (torch)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("MODEL", "--sweep", "Q=3"), 3, "no dynamic dimension `Q`"),
        (("MODEL", "--cuda-graph"), 2, "--cuda-graph: not with --provider cpu"),
        (("MODEL", "--throughput", "--sweep", "H=3"), 2, "--throughput: not with --sweep"),
        (("MODEL", "--sweep", "Q=x"), 2, "--sweep Q=x: a size is a positive integer"),
        (("MODEL", "--chart", "x.gif"), 2, "a chart is written as .svg, .png, .pdf"),
        (("nothing.onnx",), 3, "nothing.onnx"),
        (("nothing.engine", "MODEL"), 2, "nothing.engine: there is no such file"),
        (("RECIPE",), 3, "is a recipe; name one of its models"),
        (("RECIPE:other",), 3, "declares no model `other`; it declares digits"),
        (("nothing.mopt:model",), 3, "nothing.mopt is not a valid recipe"),
    ],
)
def test_what_can_not_be_timed_is_told(mopt_command, model, arguments, status, message):
    given = [argument.replace("MODEL", model).replace("RECIPE", str(RECIPES / "quickstart.mopt"))
             for argument in arguments]  # fmt: skip
    done = mopt_command("profile", *given)
    assert "internal error" not in done.stderr
    assert message in done.stderr
    assert done.returncode == status


def test_an_engine_is_never_run_by_something_else(mopt_command, model, tmp_path):
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"engine")
    done = mopt_command("profile", model, str(engine))
    assert "nothing beside it says which library built it" in done.stderr
    (tmp_path / "model.engine.json").write_text(json.dumps({"built_by": {"mopt": "1", "tensorrt_rtx": "1"}}))
    done = mopt_command("profile", model, str(engine))
    assert done.returncode in (3, 4), done.stderr
    assert "GPU" in done.stderr or "load" in done.stderr
