"""Training inside a compile: killed, interrupted, launched as two processes, failing."""

import hashlib
import json
import os
import signal
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
net (float[N, 64] image) => (float[N, 10] logits)
<float ratio = {0.2}> {
    [first] h = Gemm <transB: int = 1> (image, w1, b1)
    [act] r = Relu (h)
    [drop] d = Dropout (r, ratio)
    [last] logits = Gemm <transB: int = 1> (d, w2, b2)
}
"""
DATA = """
def data():
    from sklearn.datasets import load_digits
    bunch = load_digits()
    samples = [{"image": (i.reshape(64) / 16).astype("float32"), "target": int(t)}
               for i, t in zip(bunch.images, bunch.target)]
    return {"train": samples[:640], "held": samples[640:900], "test": samples[900:1200]}
"""
# Every step leaves a line; it takes a while as long as nobody made the file `fast`.
LOSS = """
import time
from pathlib import Path
import torch
HERE = Path(__file__).parent

def slow(outputs, targets):
    if not (HERE / "fast").exists():
        time.sleep(0.05)
    if torch.is_grad_enabled():
        with (HERE / "steps").open("a") as file:
            file.write("step\\n")
    return torch.nn.functional.cross_entropy(outputs["logits"], targets)

def broken(outputs, targets):
    return slow(outputs, targets) * float("nan")
"""
RECIPE = """
model net = onnx("net.onnx")
data scans = python("data.py:data")
loss slow = python("loss.py:slow")
loss broken = python("loss.py:broken")
evaluate(data=scans.test, metrics=[accuracy], batch=50)
pipeline pruned = net { prune.magnitude(amount=60%) }
pipeline tuned = pruned {
    tune(data=scans.train, loss=OPTIONS)
}
"""
PLAIN = "slow, epochs=3, rate=1e-2, batch=32, validation=scans.held, monitor=accuracy, checkpoint=0ms, device=cpu"
TOTAL = 60


def write(folder, options=PLAIN):
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(NET)
    shapes = {"w1": (48, 64), "b1": (48,), "w2": (10, 48), "b2": (10,)}
    for name, shape in shapes.items():
        array = rng.normal(0, 0.2, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(model, folder / "net.onnx")
    (folder / "data.py").write_text(DATA, encoding="utf-8")
    (folder / "loss.py").write_text(LOSS, encoding="utf-8")
    (folder / "r.mopt").write_text(RECIPE.replace("OPTIONS", options), encoding="utf-8")
    return folder


@pytest.fixture
def recipe(tmp_path):
    return write(tmp_path)


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
COMMAND = ["compile", "r.mopt", "--store", "store", "--profile", "never"]


def start(folder, *arguments, launcher=("-m", "mopt.cli.main")):
    return subprocess.Popen(
        [sys.executable, *launcher, *COMMAND, *arguments],
        cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def steps(folder):
    path = folder / "steps"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def wait_for_step(folder, process, number):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if steps(folder) >= number:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("training never got so far")


def run(folder, *arguments, **options):
    (folder / "fast").touch()
    process = start(folder, "--json", *arguments, **options)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return json.loads(output)


def compile_here(folder):
    """The same compile in this process, which has loaded everything."""
    torch.set_num_threads(1)
    (folder / "fast").touch()
    log = (folder / "log.txt").open("w", encoding="utf-8")
    options = CompileOptions(store=folder / "store", output=folder / "build/r", profile="never")
    with log:
        results = compile_recipe(folder / "r.mopt", options, PlainReporter(log))
    return results.to_json(), (folder / "log.txt").read_text(encoding="utf-8")


def outcome(folder):
    """What has to be the same: the bytes of the model, and the whole course of training."""
    model = hashlib.sha256((folder / "build/r/tuned/ort/model.onnx").read_bytes()).hexdigest()
    results = json.loads((folder / "build/r/results.json").read_text(encoding="utf-8"))
    return model, results["steps"]["tuned"][0]["figures"]


def checkpoints(folder):
    return list((folder / "store/v1/checkpoints").glob("*/*"))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("uninterrupted"))
    results, log = compile_here(folder)
    assert steps(folder) == TOTAL
    rows = {row["pipeline"]: row for row in results["rows"]}
    assert rows["pruned"]["metrics"]["accuracy"] < 0.4 < 0.6 < rows["tuned"]["metrics"]["accuracy"], log
    assert rows["tuned"]["nonzero"] == rows["pruned"]["nonzero"]
    return outcome(folder)


def test_killed_and_interrupted_in_the_middle_of_an_epoch_the_same_command_gets_the_same_result(recipe, uninterrupted):
    process = start(recipe)
    wait_for_step(recipe, process, 13)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert len(checkpoints(recipe)) == 1
    process = start(recipe)
    wait_for_step(recipe, process, 31)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command to go on" in errors
    assert "Traceback" not in errors
    assert 31 <= steps(recipe) < TOTAL
    results = run(recipe)
    assert [step["cached"] for step in results["steps"]["tuned"]] == [False]
    assert TOTAL <= steps(recipe) <= TOTAL + 1, "at most the step it was killed in was done twice"
    assert outcome(recipe) == uninterrupted
    assert checkpoints(recipe) == []


def test_the_curve_is_in_the_report(uninterrupted):
    _, (figures,) = uninterrupted
    assert (figures["steps"], figures["steps_per_epoch"], len(figures["loss"])) == (TOTAL, 20, TOTAL)
    assert figures["loss"][0][1] > 1.5 * figures["loss"][-1][1]
    assert [step for step, _ in figures["monitor"]] == [0, 20, 40, 60]


def test_a_loss_that_is_no_number_fails_the_step_and_says_where(recipe):
    (recipe / "r.mopt").write_text(RECIPE.replace("OPTIONS", PLAIN.replace("slow", "broken")), encoding="utf-8")
    results, log = compile_here(recipe)
    assert results["exit_status"] == 3
    assert "tune: the loss is nan at step 1 of 60" in log
    assert "nan=keep" in log
    assert [row["status"] for row in results["rows"]] == ["ok", "failed"]


@pytest.mark.slow
def test_two_processes_train_what_one_would(recipe):
    # Without dropout, which every process draws for itself, two halves of a batch are the batch.
    model = onnx.load(recipe / "net.onnx")
    ratio = next(one for one in model.graph.initializer if one.name == "ratio")
    ratio.CopyFrom(numpy_helper.from_array(np.zeros(tuple(ratio.dims), np.float32), "ratio"))
    onnx.save(model, recipe / "net.onnx")
    port = 20000 + os.getpid() % 20000
    # What `accelerate launch` runs for several processes.
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port), "-m")
    results = run(recipe, launcher=(*launcher, "mopt.cli.main"))
    assert steps(recipe) == 2 * TOTAL, "each process did every step, on its half of the batch"
    assert checkpoints(recipe) == []
    (figures,) = results["steps"]["tuned"][0]["figures"]
    for cached in (recipe / "store").rglob("records/steps/*/*.json"):
        cached.unlink()
    alone, _ = compile_here(recipe)
    (expected,) = alone["steps"]["tuned"][0]["figures"]
    assert not alone["steps"]["tuned"][0]["cached"]
    np.testing.assert_allclose([loss for _, loss in figures["loss"]], [loss for _, loss in expected["loss"]], rtol=2e-3)
    assert figures["monitor"] == expected["monitor"]
