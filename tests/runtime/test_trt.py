"""Real TensorRT engines, built ahead of time on a machine without a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mopt.ir import from_proto, load
from mopt.runtime.contract import Sizes, TargetError
from mopt.runtime.dimensions import dynamic_dimensions
from mopt.runtime.gpu import gpus
from mopt.runtime.trt import engine as trt_engine
from mopt.runtime.trt import library as trt_library
from mopt.runtime.trt.shapes import plans
from mopt.runtime.trt.target import NO_GPU, TrtTarget
from onnx import TensorProto, helper

F = TensorProto.FLOAT
HERE = Path(__file__).parent

needs_builder = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed (extra `tensorrt-rtx`)"
)
without_gpu = pytest.mark.skipif(bool(gpus()), reason="there is a GPU here")


def description(artifact) -> dict:
    return json.loads(artifact.files[1].read_text())


@needs_builder
def test_a_small_network_becomes_an_engine(cnn, tmp_path):
    artifact = TrtTarget(library="tensorrt_rtx").emit(cnn, tmp_path)
    assert artifact.path.read_bytes()[:4] == b"vtrt"  # the magic of its plan files
    assert artifact.bytes == artifact.path.stat().st_size > 10_000
    assert 0 < artifact.compressed < artifact.bytes
    facts = description(artifact)
    assert facts["capabilities"] == ["sm80", "sm86", "sm89", "sm120"]
    assert facts["inputs"] == [{"name": "image", "dtype": "FLOAT", "shape": [-1, 1, 8, 8]}]
    assert facts["outputs"] == [{"name": "logits", "dtype": "FLOAT", "shape": [-1, 4]}]
    assert facts["profile"] == {"N": [1, 1, 8]}
    assert facts["network"]["layers"] >= 4
    assert facts["engine"]["sha256"] == trt_engine.digest([artifact.path])
    assert set(facts["built_by"]) == {"mopt", "tensorrt_rtx"}


@needs_builder
@pytest.mark.parametrize("name", ["rec_v4", "det_v4", "crnn_v2"])
def test_real_models_become_engines_that_hold_their_weights(name, packaged, tmp_path):
    """Detector, recogniser, and a CRNN with LSTM: the engine is at least as large as the weights it must carry."""
    module = load(packaged(name))
    parameters = sum(weight.tensor.nbytes for weight in module.weights() if weight.dtype == "f32")
    artifact = TrtTarget(library="tensorrt_rtx", capabilities=("sm89",)).emit(module, tmp_path)
    assert artifact.bytes > 0.95 * parameters
    facts = description(artifact)
    assert facts["capabilities"] == ["sm89"]
    assert facts["network"]["layers"] > 100
    assert all(low < high for low, _, high in facts["profile"].values()), "every dimension stayed dynamic"
    assert "declare `profile" in artifact.notes[0]


@needs_builder
def test_other_weights_give_another_engine(tmp_path):
    spec = importlib.util.spec_from_file_location("runtime_models", HERE / "conftest.py")
    models = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(models)
    found = set()
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        target = TrtTarget(library="tensorrt_rtx", capabilities=("sm89",))
        found.add(
            description(target.emit(from_proto(models.cnn_proto(seed)), tmp_path / str(seed)))["engine"]["sha256"]
        )
    assert len(found) == 2


@needs_builder
def test_building_twice_gives_the_same_bytes_where_addresses_can_be_fixed(cnn, tmp_path):
    # Free addresses never give the same bytes twice. Fixed ones mostly do, but on a busy machine the builder's own
    # threads can still differ: two equal engines of a few are asked for.
    engines = set()
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        facts = description(TrtTarget(library="tensorrt_rtx").emit(cnn, tmp_path / str(number)))
        if not facts["fixed_addresses"]:
            pytest.skip("this system does not let a process turn address randomisation off")
        if facts["engine"]["sha256"] in engines:
            return
        engines.add(facts["engine"]["sha256"])
    pytest.fail("four builds gave four engines")


@needs_builder
def test_a_declared_profile_is_built(cnn, tmp_path):
    artifact = TrtTarget(library="tensorrt_rtx", profile={"N": (2, 4, 16)}).emit(cnn, tmp_path)
    assert description(artifact)["profile"] == {"N": [2, 4, 16]}
    assert not any("declare" in note for note in artifact.notes)


@needs_builder
def test_an_unknown_operator_is_named_with_its_node(build, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="first"),
        helper.make_node("Det", ["h"], ["y"], name="the_culprit"),
    ]
    module = build(nodes, [("x", F, [2, 3, 3])], [("y", F, [2])])
    with pytest.raises(TargetError, match=r"node `the_culprit` \(Det\)") as caught:
        TrtTarget(library="tensorrt_rtx").emit(module, tmp_path)
    assert not caught.value.missing
    assert not list(tmp_path.iterdir()), "nothing half-written"


@needs_builder
def test_a_network_the_builder_refuses_is_an_error(packaged, tmp_path):
    with pytest.raises(
        TargetError, match=r"can't build an engine for it: .*node `If_0` \(If\) branches on `sr`"
    ) as caught:
        TrtTarget(library="tensorrt_rtx").emit(load(packaged("silero")), tmp_path)
    assert "trt(values={sr: …})" in caught.value.help
    assert not list(tmp_path.iterdir())


@needs_builder
def test_a_guess_that_can_not_be_built_falls_back_to_one_size_with_a_note(build, tmp_path):
    """Reshape to 96 columns: the guessed range of S breaks it, the one size that runs does not."""
    nodes = [helper.make_node("Reshape", ["x", "to"], ["y"])]
    module = build(nodes, [("x", F, ["N", 3, "S"])], [("y", F, ["N", 96])], {"to": np.array([-1, 96])})
    artifact = TrtTarget(library="tensorrt_rtx").emit(module, tmp_path)
    assert description(artifact)["profile"]["S"] == [32, 32, 32]
    assert "S 32" in artifact.notes[0]


def test_a_crash_of_the_builder_is_an_error(cnn, tmp_path, monkeypatch):
    crash = [sys.executable, "-c", "import os, signal; print('about to fail', flush=True); os.kill(os.getpid(), 11)"]
    real = subprocess.Popen
    monkeypatch.setattr(trt_engine.subprocess, "Popen", lambda command, **options: real(crash, **options))
    found = trt_library.Found("tensorrt_rtx", "1", can_run=False)
    settings = trt_engine.Settings((), 0, 3, False, False)
    with pytest.raises(TargetError, match="crashed \\(SIGSEGV\\)") as caught:
        trt_engine.build_engine(cnn, found, settings, plans(cnn, {}), tmp_path)
    assert "about to fail" in caught.value.help
    assert not list(tmp_path.iterdir())


def test_an_interrupt_ends_the_builder(cnn, tmp_path):
    """Ctrl-C while the builder hangs: the compiler stops with KeyboardInterrupt and leaves no process behind."""
    pid_file = tmp_path / "pid"
    program = f"""
import subprocess, sys
from pathlib import Path
from mopt.ir import load
from mopt.runtime.trt import engine as trt_engine
from mopt.runtime.trt import library as trt_library
real = subprocess.Popen
def hang(command, **options):
    child = real([sys.executable, "-c", "import time; time.sleep(60)"], **options)
    Path({str(pid_file)!r}).write_text(str(child.pid))
    return child
trt_engine.subprocess.Popen = hang
out = Path({str(tmp_path)!r}) / "out"
out.mkdir()
trt_engine.build_engine(load({str(tmp_path / "m.onnx")!r}), trt_library.Found("tensorrt_rtx", "1", can_run=False),
    trt_engine.Settings((), 0, 3, False, False), [], out)
"""
    from mopt.ir import save

    save(cnn, tmp_path / "m.onnx")
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (pid_file.is_file() and pid_file.read_text()):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in said
    assert not Path(f"/proc/{pid_file.read_text()}").exists()
    assert not list((tmp_path / "out").iterdir())


@without_gpu
@needs_builder
def test_without_a_gpu_it_builds_and_does_not_run(cnn, tmp_path):
    target = TrtTarget()
    found = target.available()
    assert (found.can_emit, found.can_run, found.reason) == (True, False, NO_GPU)
    assert "tensorrt_rtx" in found.versions
    artifact = target.emit(cnn, tmp_path)
    assert NO_GPU in artifact.notes
    with pytest.raises(TargetError, match="an engine needs an NVIDIA GPU to run") as caught:
        target.open(artifact)
    assert caught.value.missing


def test_nothing_installed_says_what_to_install(cnn, tmp_path, monkeypatch):
    monkeypatch.setattr(trt_library, "_installed", lambda library: False)
    target = TrtTarget()
    found = target.available()
    assert not found.can_emit
    assert "pip install" in found.install
    with pytest.raises(TargetError) as caught:
        target.emit(cnn, tmp_path)
    assert caught.value.missing
    assert "tensorrt-rtx" in caught.value.help


def test_a_gpu_and_tensorrt_are_preferred(monkeypatch):
    monkeypatch.setattr(trt_library, "_installed", lambda library: True)
    monkeypatch.setattr(trt_library, "gpus", lambda: ("a GPU",))
    assert trt_library.find().library == "tensorrt"
    monkeypatch.setattr(trt_library, "gpus", tuple)
    assert trt_library.find().library == "tensorrt_rtx"
    assert not trt_library.find().can_run
    assert trt_library.find("tensorrt") is None


def test_half_precision_is_a_pass_of_the_graph(monkeypatch):
    monkeypatch.setattr(trt_library, "_installed", lambda library: library == "tensorrt_rtx")
    lowered = (("cluster.expand", {}), ("convert.tensorrt", {"kernels": "tensorrt_rtx", "grids": "int8"}))
    assert TrtTarget().prepare() == lowered
    assert TrtTarget(library="tensorrt").prepare()[1] == ("convert.tensorrt", {"kernels": "tensorrt", "grids": "int8"})
    assert TrtTarget(precision="fp16").prepare() == (*lowered, ("convert.float16", {"scales": True}))


def test_what_the_recipe_fixes_goes_into_the_graph():
    target = TrtTarget(profile={"N": (1, 2, 8), "W": (576,)}, values={"sr": 16000.0}, precision="fp16")
    names = [name for name, _ in target.prepare()]
    assert names == ["cluster.expand", "convert.tensorrt", "convert.bind", "simplify.rules", "convert.float16"]
    assert dict(target.prepare())["convert.bind"] == {"sizes": {"W": 576}, "values": {"sr": 16000.0}}
    assert "convert.bind" not in dict(TrtTarget(profile={"N": (1, 2, 8)}).prepare())


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        ({"Z": (1, 2, 3)}, "the model's dynamic dimensions are `N`"),
        ({"N": (3, 2, 1)}, "rising order"),
        ({"N": (1, 2)}, "rising"),
    ],
    ids=["unknown", "falling", "two sizes"],
)
def test_a_wrong_profile_is_refused(cnn, profile, told):
    with pytest.raises(TargetError, match=told):
        plans(cnn, profile)


def test_profiles_are_the_general_one_then_narrower(packaged_module):
    found = plans(packaged_module("det_v4"), {})
    spans = [sum(high - low for low, _, high in plan.ranges.values()) for plan in found]
    assert spans == sorted(spans, reverse=True)
    assert len(found) == 3
    small, likely, large = found[0].shapes["x"]
    assert small[1] == likely[1] == large[1] == 3
    assert all(a <= b <= c for a, b, c in zip(small, likely, large, strict=True))


def test_options_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrtTarget().precision = "fp16"  # type: ignore[misc]


def test_the_recipes_sizes_decide_the_range(packaged_module):
    module = packaged_module("det_v4")
    batch, height, width = (dimension.key for dimension in dynamic_dimensions(module))
    found = plans(module, {}, Sizes((1, 8, 32), {height: 480, width: 640, "unrelated": 3}))
    low, likely, high = found[0].ranges[height]
    assert low <= likely == 480 <= high
    assert found[-1].ranges[height] == (480, 480, 480)
    assert all(plan.ranges[batch] == (1, 1, 32) for plan in found)


def test_what_the_target_declares_goes_before_the_recipes_sizes(cnn):
    assert plans(cnn, {"N": (2, 4, 16)}, Sizes((1, 8)))[0].ranges == {"N": (2, 4, 16)}


def test_dimensions_of_other_models_are_left_alone(cnn):
    assert plans(cnn, {"N": (1, 2, 4), "L": (64, 320, 960)})[0].ranges == {"N": (1, 2, 4)}
