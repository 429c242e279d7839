"""The vision transformer of `vit.mopt`: its data, its weights, the recipe from end to end, and pruning it naively."""

from __future__ import annotations

import contextlib
import copy
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mopt
import numpy as np
import pytest
from mopt.recipes.vit.data import read, sample

torch = pytest.importorskip("torch", reason="needs the extra `torch`")

RECIPES = Path(__file__).parents[2] / "recipes"


def network() -> Any:
    from mopt.recipes.vit.model import VisionTransformer
    from safetensors.torch import load_file

    found = VisionTransformer().eval()
    found.load_state_dict(load_file(RECIPES / "vit" / "weights.safetensors"))
    return found


def classes(network: Any) -> np.ndarray[Any, Any]:
    images = torch.from_numpy(np.stack([one["image"] for one in sample()["test"]]))
    with torch.inference_mode():
        return np.asarray(network(images).argmax(1).numpy())


def test_the_sample_is_what_the_recipe_says() -> None:
    labels, answers = sample(), sample(target="classes")
    assert {name: len(split) for name, split in labels.items()} == {"calib": 160, "test": 500}
    assert {one["target"] for one in labels["test"]} == set(range(10))
    first = labels["test"][0]["image"]
    assert (first.shape, first.dtype, first.min(), first.max()) == ((1, 28, 28), np.float32, 0, 1)
    assert np.array_equal(first, answers["test"][0]["image"])
    known = {one["image"].tobytes() for one in labels["calib"]}
    assert not [one for one in labels["test"] if one["image"].tobytes() in known]


def test_a_missing_data_set_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASHION_MNIST", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"`dataset-fashion-mnist`, or set FASHION_MNIST"):
        read("t10k")


def test_trained_weights_know_clothes() -> None:
    found = classes(network())
    assert np.mean(found == [one["target"] for one in sample()["test"]]) >= 0.88
    # The answers that agreement is measured against; a sample on a border may fall otherwise on another processor.
    assert np.mean(found == [one["target"] for one in sample(target="classes")["test"]]) >= 0.998


@pytest.mark.slow
def test_pruned_without_harm(tmp_path: Path) -> None:
    results = mopt.compile_recipe(
        RECIPES / "vit.mopt", output=tmp_path / "out", store=tmp_path / "store", profile="never"
    )
    rows = {row.pipeline: row for row in results.rows}
    assert list(rows) == ["original", "simplified", "unstructured", "structured", "clustered", "int8"]
    assert results.exit_status == 0, [row.failure or row.requirements for row in results.rows]
    assert rows["unstructured"].metrics["agreement"] >= 0.99
    assert rows["structured"].metrics["agreement"] >= 0.95
    assert rows["structured"].macs <= 0.9 * rows["original"].macs
    assert rows["clustered"].bytes < 0.3 * rows["original"].bytes
    # What torch.nn.utils.prune does layer by layer: a tenth of the rows of every weight are zeros.
    from torch.nn.utils import prune

    naive = copy.deepcopy(network())
    for layer in naive.modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            prune.ln_structured(layer, "weight", amount=0.1, n=1, dim=0)
    agreement = np.mean(classes(naive) == [one["target"] for one in sample(target="classes")["test"]])
    assert agreement < 0.93 < rows["structured"].metrics["agreement"]


def test_cuts_every_group_at_the_width_of_vit_base() -> None:
    from mopt.analysis.cost import cost
    from mopt.ir import from_proto, verify
    from mopt.passes.prune.channels import Channels
    from mopt.passes.simplify.rules import Rules
    from mopt.recipes.vit.model import VisionTransformer
    from mopt.runtime.ort import OrtRunner
    from mopt.values import Ratio

    torch.manual_seed(0)
    wide = VisionTransformer(224, 16, 3, width=768, depth=1, heads=12, hidden=3072, classes=1000).eval()
    with contextlib.redirect_stdout(io.StringIO()):
        proto = torch.onnx.export(wide, (torch.zeros(1, 3, 224, 224),), dynamo=True, input_names=["image"]).model_proto
    quiet: Any = SimpleNamespace(seed=0, bindings={}, progress=lambda *_: contextlib.nullcontext(SimpleNamespace()))
    before = Rules().run(from_proto(proto), quiet).module
    result = Channels(Ratio(0.25)).run(before.clone(), quiet)
    assert not verify(result.module)
    # The residual stream, the heads (3 of 12) and the hidden units, all by a quarter.
    shapes = {tuple(weight.shape) for weight in result.module.weights() if len(weight.shape) == 2}
    assert {(576, 2304), (2304, 576), (1000, 576)} <= shapes
    assert cost(result.module).macs < 0.6 * cost(before).macs
    outputs = OrtRunner(result.module).run({"image": np.zeros((1, 3, 224, 224), np.float32)})
    assert [array.shape for array in outputs.values()] == [(1, 1000)]
