"""A distillation that `kill -9` ends, and the same command again."""

import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx.parser
import pytest
from mopt.build.progress import PlainReporter
from mopt.driver import CompileOptions, compile_recipe
from onnx import numpy_helper

torch = pytest.importorskip("torch", reason="needs the extra `torch`")
pytest.importorskip("accelerate", reason="needs the extra `torch`")

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N, 16] x) => (float[N, 4] y) {
    [first] h = Gemm <transB: int = 1> (x, w1)
    [act] r = Relu (h)
    [last] y = Gemm <transB: int = 1> (r, w2)
}
"""
DATA = """
import numpy as np

def data():
    rng = np.random.default_rng(0)
    samples = [{"x": x, "target": int(x[:4].argmax())} for x in rng.normal(size=(400, 16)).astype("float32")]
    return {"train": samples[:320], "test": samples[320:]}
"""
# Every step leaves a line; it takes a while as long as nobody made the file `fast`.
LOSS = """
import time
from pathlib import Path
import torch
HERE = Path(__file__).parent

def slow(outputs, targets):
    if not (HERE / "fast").exists():
        time.sleep(0.1)
    with (HERE / "steps").open("a") as file:
        file.write("step\\n")
    return torch.nn.functional.cross_entropy(outputs["y"], targets)
"""
RECIPE = """
model net = onnx("net.onnx")
model young = onnx("young.onnx")
data points = python("data.py:data")
loss slow = python("loss.py:slow")
evaluate(data=points.test, metrics=[accuracy], batch=40)
pipeline follows = young {
    distill.response(teacher=net, data=points.train, loss=slow, epochs=3, rate=1e-2, checkpoint=0ms, device=cpu)
    distill.features(teacher=net, data=points.train, layers=["act"], steps=4, device=cpu)
}
"""
TOTAL = 30


def write(folder):
    for name, width in (("net", 24), ("young", 8)):
        rng = np.random.default_rng(width)
        model = onnx.parser.parse_model(NET)
        for weight, shape in (("w1", (width, 16)), ("w2", (4, width))):
            array = rng.normal(0, 0.3, shape).astype(np.float32)
            model.graph.initializer.append(numpy_helper.from_array(array, weight))
        onnx.save(model, folder / f"{name}.onnx")
    for name, text in (("data.py", DATA), ("loss.py", LOSS), ("r.mopt", RECIPE)):
        (folder / name).write_text(text, encoding="utf-8")


def steps(folder):
    path = folder / "steps"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def compile_here(folder):
    torch.set_num_threads(1)
    (folder / "fast").touch()
    options = CompileOptions(store=folder / "store", output=folder / "build/r", profile="never")
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        results = compile_recipe(folder / "r.mopt", options, PlainReporter(log)).to_json()
    assert results["exit_status"] == 0, (folder / "log.txt").read_text(encoding="utf-8")
    model = hashlib.sha256((folder / "build/r/follows/ort/model.onnx").read_bytes()).hexdigest()
    return model, results["steps"]["follows"]


def test_killed_in_the_middle_of_an_epoch(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
        write(folder)
    expected, _ = compile_here(whole)
    assert steps(whole) == TOTAL

    process = subprocess.Popen(
        [sys.executable, "-m", "mopt.cli.main", "compile", "r.mopt", "--store", "store", "--profile", "never"],
        cwd=cut, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while steps(cut) < 13:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "training never got so far"
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = steps(cut)
    assert before < TOTAL

    found, told = compile_here(cut)
    assert found == expected
    assert steps(cut) <= TOTAL + 1, "at most the step that the kill cut short is made again"
    notes = json.dumps(told[0], ensure_ascii=False)
    assert "`net` had run on these samples before" in notes, "what the teacher said was on the disk"
