"""`ocr_aware.mopt`: its lines, and its pipeline on few of them; `python .ci/tasks.py bench aware` runs it whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mopt
import numpy as np
import pytest
from mopt.ir import load
from mopt.recipes.ocr.data import lines

torch = pytest.importorskip("torch", reason="needs the extra `torch`")

from mopt.runtime.ort import OrtRunner  # noqa: E402
from mopt.runtime.trainable.runner import TrainableModule  # noqa: E402

RECIPE = Path(__file__).parents[2] / "recipes" / "ocr_aware.mopt"


def test_lines_to_train_on_are_others() -> None:
    splits = lines(seed=12, count=6, train=6)
    assert {name: len(split) for name, split in splits.items()} == {"test": 6, "calib": 64, "train": 6}
    texts = [{sample["target"] for sample in splits[name]} for name in ("test", "train")]
    assert not texts[0] & texts[1]
    again = lines(seed=12, train=6)["train"]
    assert all(np.array_equal(one["x"], other["x"]) for one, other in zip(splits["train"], again, strict=True))


@pytest.mark.slow
def test_the_recogniser_trains_and_still_reads(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    results = mopt.compile_recipe(
        RECIPE, output=tmp_path / "out", store=tmp_path / "store", profile="never",
        only=["original", "trained"], settings={"lines": 8, "tests": 12, "steps": 2},
    )  # fmt: skip
    assert not [row.failure for row in results.rows if row.failure]
    rows = {row.pipeline: row for row in results.rows}
    assert rows["original"].metrics["exact"] >= 0.9
    assert rows["trained"].metrics["cer"] <= rows["original"].metrics["cer"] + 0.005
    assert rows["trained"].bytes <= 0.28 * rows["original"].bytes
    apart, same = differences(load(tmp_path / "out" / "trained" / "cpu" / "model.onnx"))
    assert np.median(list(apart.values())) < 1
    assert same >= 0.9


def differences(module: Any) -> tuple[dict[str, float], float]:
    """How far the runner and onnxruntime are apart at each quantiser, in its steps, and how often they say the same.

    Sixty layers make much of a tie that is rounded the other way: with and without onnxruntime's optimisations the
    network differs from itself as much, by a quarter of a step at half of its quantisers, by four at the worst.
    """
    weights, steps = {weight.value: weight for weight in module.weights()}, {}
    (answer,) = (value.name for value in module.graph.outputs)
    for node in module.nodes():
        if node.op_type == "DequantizeLinear" and node.inputs[0].producer() is not None:
            value = node.outputs[0]
            if value not in module.graph.outputs:
                module.graph.outputs.append(value)
            steps[value.name] = float(weights[node.inputs[1]].numpy())
    feeds = {"x": lines(seed=12, count=1)["test"][0]["x"][None]}
    one, other = (found.run(feeds) for found in (TrainableModule(module, trainable=False).eval(), OrtRunner(module)))
    apart = {name: float(np.abs(one[name] - other[name]).mean()) / step for name, step in steps.items()}
    assert len(apart) > 80
    return apart, float(np.mean(one[answer].argmax(-1) == other[answer].argmax(-1)))
