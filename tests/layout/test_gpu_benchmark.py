"""The GPU benchmark runs where there is no GPU, and its page says what the kept results say, or that there are none."""

import argparse
import importlib
import json
import sys
from pathlib import Path

import pytest
from mopt.runtime.gpu import gpus

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for name in [name for name in sys.modules if name.startswith("gpu")]:
        del sys.modules[name]


def given(**options):
    return argparse.Namespace(**{"batches": [1], "ways": [], "runs": 6, "seconds": 0.0} | options)


def test_the_page_is_current(script):
    gpu_page = script("gpu_page")
    assert gpu_page.PAGE.read_text(encoding="utf-8") == gpu_page.page(gpu_page.load()), "run gpu_page.py"


def test_every_model_is_in_the_matrix(script):
    matrix = script("gpu_models").subjects()
    assert {"vit-base", "mobilenet-v2", "minilm", "ppocr-v4-rec", "open-nsfw", "silero-vad", "recipe vit"} <= set(
        matrix
    )
    assert {name for name, one in matrix.items() if one.eager} >= {"vit-base", "mobilenet-v2", "minilm", "recipe crnn"}


@pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")
def test_without_a_gpu_there_are_the_cpus_rows_and_reasons(script):
    gpu = script("gpu")
    found = gpu.measure(gpu.subjects()["ppocr-v2-cls"], given(batches=[1, 2]))
    rows = json.loads(json.dumps(found))["rows"]
    timed = {label for label, row in rows.items() if "batches" in row}
    assert timed == {"onnxruntime f32, cpu", "onnxruntime int8, cpu"}
    assert all(set(rows[label]["batches"]) == {"1", "2"} for label in timed)
    ratio = rows["onnxruntime int8, cpu"]["batches"]["2"]["ratios"]["onnxruntime f32, cpu"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert all(row["reason"] for label, row in rows.items() if label not in timed)
    assert len(rows) == 11
    assert "NVIDIA" in gpu.machine()["no_gpu"] and gpu.machine()["gpus"] == []


def test_one_way_that_breaks_is_a_row(script, monkeypatch):
    gpu = script("gpu")

    def broken(*_):
        def fail():
            raise ZeroDivisionError("what nobody expected")

        return {"engine f16": fail}

    monkeypatch.setattr(gpu, "ways", broken)
    found = gpu.measure(gpu.subjects()["ppocr-v2-cls"], given())
    assert found["rows"] == {"engine f16": {"reason": "ZeroDivisionError: what nobody expected"}}


def row(median, value=None, verdict="faster"):
    ratios = {} if value is None else {"eager f16, gpu": {"value": value, "verdict": verdict}}
    return {"batches": {"1": {"median": median, "ratios": ratios}}}


def test_tables_are_made_of_the_results(script):
    machine = {
        "gpus": [{"name": "NVIDIA Z100", "capability": [9, 0]}], "driver": "NVRM version: 580.1", "processor": "a CPU",
        "versions": {"torch": "2.13"},
    }  # fmt: skip
    models = {
        "vit-base": {"rows": {
            "eager f32, gpu": row(0.006, 2.0, "slower"), "eager f16, gpu": row(0.003),
            "onnxruntime f16, cuda": row(0.002, 0.5) | {"fell_back": "2 of 9 nodes do not run on CUDA"},
            "onnxruntime f16, cuda graph": row(0.003, 1.0, "no difference"), "engine int8": {"reason": "no library"},
        }},
        "fer-emotion": {"reason": "package fer is not installed"},
    }  # fmt: skip
    text = script("gpu_page").page({"machine": machine, "models": models})
    assert "NVIDIA Z100 (sm90); NVRM version: 580.1; a CPU; torch 2.13." in text
    assert "| onnxruntime CUDA float16 over eager float32 PyTorch, ViT-base | 2 × | 3.00 × |" in text
    assert "MobileNetV2 | 1.3 × | not measured |" in text
    assert "| vit-base | 6 (0.50 ×) | 3 | – | 2 (2.00 ×) | 3 (1.00 ×, no difference) |" in text
    assert "- fer-emotion: package fer is not installed" in text
    assert "- vit-base, engine int8: no library" in text and "- vit-base, onnxruntime f16, cuda: 2 of 9 nodes" in text


def test_results_of_a_machine_without_a_gpu_fill_no_table(script):
    gpu_page = script("gpu_page")
    assert gpu_page.page(None) == gpu_page.page({"machine": {"gpus": []}, "models": {}})
    assert gpu_page.NONE in gpu_page.page(None)


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["vit-base", "mobilenet-v2"])
def test_on_a_gpu_float16_is_twice_as_fast_as_eager_float32(script, name):
    pytest.importorskip("torch")
    gpu = script("gpu")
    rows = gpu.measure(
        gpu.subjects()[name],
        given(ways=["eager f32, gpu", "onnxruntime f16, cuda", "onnxruntime f32, cpu"], runs=30, seconds=4.0),
    )["rows"]
    eager, ours = (rows[label]["batches"]["1"]["median"] for label in ("eager f32, gpu", "onnxruntime f16, cuda"))
    assert eager / ours >= 2.0
