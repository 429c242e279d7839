"""Keras and SavedModel sources, converted once for all tests; files of Keras 2 and of Keras 3."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mopt.ir import load
from mopt.ir.provenance import origins
from mopt.passes.convert.keras_source import KerasSource
from mopt.passes.convert.savedmodel_source import SavedModelSource
from mopt.values import Location

pytest.importorskip("tensorflow", reason="needs the extra `tensorflow`")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensorflow")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, str(HERE / "convert_tensorflow.py"), str(folder)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def module_of(converted, name):
    error = converted / name / "error.txt"
    assert not error.exists(), error.read_text()
    return load(converted / name / "model.onnx")


INTERFACES = {
    "fer": (["input_1: f32[N, 64, 64, 1]"], ["output: f32[N, 7]"]),
    "cifar": (["picture: f32[N, 32, 32, 3]"], ["classes: f32[N, 10]"]),
    "keras file": (["image: f32[N, 16, W, 1]"], ["output: f32[N, output_dim1, 5]"]),
    "factory": (["image: f32[N, 16, W, 1]"], ["output: f32[N, output_dim1, 5]"]),
    "two inputs": (["left: f32[N, 4]", "right: f32[N, 4]"], ["joined: f32[N, 8]", "total: f32[N, 3]"]),
    "savedmodel": (["left: f32[N, 4]", "right: f32[N, 4]"], None),
    "subclassed": (["x: f32[N, 4]"], ["output: f32[N, 2]"]),
    "basic-pitch": (
        ["audio: f32[N, 43844, 1]"],
        ["contour: f32[N, 172, 264]", "note: f32[N, 172, 88]", "onset: f32[N, 172, 88]"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERFACES)
def test_interface_is_as_declared_and_dynamic(name, converted):
    module = module_of(converted, name)
    inputs, outputs = INTERFACES[name]
    assert sorted(str(info) for info in module.inputs) == sorted(inputs)
    if outputs is not None:
        assert sorted(str(info) for info in module.outputs) == sorted(outputs)
    notes = json.loads((converted / name / "notes.json").read_text())
    assert any("agrees with the source: max rel" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fer", "cifar", "keras file", "factory", "two inputs", "encoder", "savedmodel"])
def test_graph_computes_what_keras_computes_at_two_batch_sizes(name, converted, run_onnx, close):
    arrays = np.load(converted / name / "reference.npz")
    batches = set()
    for run in (0, 1):
        feeds = {key.split()[1]: arrays[key] for key in arrays.files if re.fullmatch(rf"in \w+ {run}", key)}
        batches.add(len(next(iter(feeds.values()))))
        expected = [arrays[key] for key in arrays.files if re.fullmatch(rf"out \d+ {run}", key)]
        got = list(run_onnx(converted / name / "model.onnx", feeds).values())
        assert len(got) == len(expected) >= 1
        for one, other in zip(sorted(expected, key=np.size), sorted(got, key=np.size), strict=True):
            close(one, other)
    assert batches == {1, 3}


@pytest.mark.slow
def test_savedmodel_agrees_with_the_onnx_file_of_the_same_network(converted, run_onnx, close):
    """basic-pitch ships one network twice; the shipped ONNX file is no work of ours."""
    shipped = Location("pkg:basic_pitch/saved_models/icassp_2022/nmp.onnx").resolve()
    audio = np.load(converted / "basic-pitch" / "reference.npz")["in audio 0"]
    theirs = sorted(run_onnx(shipped, {"serving_default_input_2:0": audio}).values(), key=lambda a: (a.size, a.max()))
    ours = sorted(
        run_onnx(converted / "basic-pitch" / "model.onnx", {"audio": audio}).values(), key=lambda a: (a.size, a.max())
    )
    for one, other in zip(theirs, ours, strict=True):
        close(one, other, relative=1e-3)


@pytest.mark.slow
def test_layers_are_origins_and_weights_have_their_names(converted):
    module = module_of(converted, "factory")
    found = {node.op_type: origins(node) for node in module.nodes() if node.op_type in ("LSTM", "Loop")}
    convolutions = [origins(node) for node in module.nodes() if node.op_type == "Conv"]
    # `conv2d_1` is a layer's name, and what TensorFlow makes of the name `conv2d`
    assert [set(layers) for layers in convolutions] == [{"conv2d", "norm"}, {"conv2d_1"}]
    assert found["LSTM"][0].startswith("reader")
    assert found["Loop"] == ("second",)  # tf2onnx knows Keras 3's LSTM, but not its GRU
    assert {"conv2d_1/kernel", "head/kernel"} <= {weight.name for weight in module.weights()}
    assert all(origins(node) for node in module.nodes())


ERRORS = {
    "no inputs": r"has no declared inputs \(a subclassed model\); give them by `inputs=",
    "lambda": r"lambda.keras holds a Lambda layer with Python bytecode in it, which loading would run; mopt does not",
    "lambda in h5": r"lambda.h5 holds a Lambda layer with Python bytecode in it",
    "custom class": r"custom.keras names `keras_nets.Custom`, which is no part of Keras.*a factory",
    "damaged keras": r"damaged.keras is no .keras file, or is damaged",
    "damaged h5": r"damaged.h5 can't be loaded by Keras: ",
    "weights only": r"recogniser.weights.h5 holds weights, not a model; name the factory",
    "no model": r"`keras_nets.py:nothing` returned None instead of a keras.Model",
    "raises": r"`keras_nets.py:fails` raised RuntimeError: no such luck\n  keras_nets.py:\d+ in fails",
    "wrong weights": r"recogniser.weights.h5 does not fit the model: ",
    "wrong inputs": r"input `image` is declared f32\[N, 16, W, 3\], but the model takes f32\[N, 16, image_dim2, 1\]",
    "folder": r"two_saved is a folder; for a SavedModel write savedmodel\(\"two_saved\"\)",
    "no savedmodel": r"is no SavedModel: it holds no saved_model.pb",
    "no signature": r"has no signature `serving`; did you mean `serve`\?",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ERRORS)
def test_bad_input_is_a_clear_error(name, converted):
    message = (converted / name / "error.txt").read_text()
    assert re.search(ERRORS[name], message), message
    assert "Traceback" not in message


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_configuration_that_imports_something_else_is_refused(suffix, tmp_path):
    """The configuration of CVE-2025-1550: an activation that is `os.system`."""
    import zipfile

    import h5py
    from mopt.passes.convert.keras_files import refuse_code
    from mopt.runtime.contract import SourceError

    path = tmp_path / f"evil{suffix}"
    system = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    config = json.dumps({"class_name": "Sequential", "config": {"layers": [{"config": {"activation": system}}]}})
    if suffix == ".keras":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
    else:
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = config
    with pytest.raises(SourceError, match=r"names `os.system`, which is no part of Keras"):
        refuse_code(path)


@pytest.mark.slow
def test_conversion_process_is_deterministic(tmp_path):
    """TensorFlow's and tf2onnx's sets follow addresses in memory; the graphs must not."""
    contents = []
    for run in ("first", "second"):
        scratch = tmp_path / run
        scratch.mkdir()
        source = KerasSource(Location("pkg:fer/data/emotion_model.hdf5"))
        result = source.load(scratch, 0)
        contents.append((scratch / "model.onnx").read_bytes())
        assert any("converted by tf2onnx" in note for note in result.notes)
    assert contents[0] == contents[1]


def test_missing_folder_is_an_error_before_tensorflow_is_imported(tmp_path):
    from mopt.runtime.contract import SourceError

    with pytest.raises(SourceError, match="nothing at"):
        SavedModelSource(Location("gone", str(tmp_path))).load(tmp_path, 0)
