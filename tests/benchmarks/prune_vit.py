"""A tenth of a vision transformer pruned by mopt and layer by layer: how often the class stays what it was.

The whole test set of Fashion-MNIST judges where it is installed, the recipe's 500 images where not.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mopt.analysis.cost import cost
from mopt.ir import Module
from mopt.passes.contract import Pass
from mopt.passes.prune.channels import Channels
from mopt.passes.prune.magnitude import Magnitude
from mopt.runtime.ort import OrtRunner
from mopt.values import DataRef, Ratio
from prune_cases import Case, of_recipe

AMOUNT = 0.1
CALIB = DataRef("d", "calib")
OURS: dict[str, Pass] = {
    "prune.magnitude(10%)": Magnitude(Ratio(AMOUNT)),
    "prune.channels(10%, of=macs)": Channels(Ratio(AMOUNT), of="macs"),
    "prune.channels(10%, of=macs, scope=global)": Channels(Ratio(AMOUNT), of="macs", scope="global"),
    "prune.channels(10%, of=macs, data=…)": Channels(Ratio(AMOUNT), of="macs", data=CALIB),
    "prune.channels(10%, of=macs, scope=global, data=…)": Channels(
        Ratio(AMOUNT), of="macs", scope="global", data=CALIB
    ),
}


def tenth(case: Case, prepare: Callable[[Module], Module], context: Callable[..., Any]) -> dict[str, Any]:
    """Return agreement with the whole network, and MACs saved, of each way to take a tenth away."""
    import torch
    from torch.nn.utils import prune

    data = of_recipe("vit", "data")
    try:
        split = data.whole()
    except FileNotFoundError:
        split = data.sample()
    images = np.stack([sample["image"] for sample in split["test"]])
    calib = [{"image": sample["image"]} for sample in split["calib"][:160]]
    with tempfile.TemporaryDirectory() as folder:
        before = prepare(case.obtain(Path(folder)))
    whole, macs, rows = _classes(before, images), cost(before, case.sizes).macs, {}
    for name, operation in OURS.items():
        after = operation.run(before.clone(), context(case.sizes, calib)).module
        rows[name] = {
            "agreement": float(np.mean(_classes(after, images) == whole)),
            "macs_saved": 1 - cost(after, case.sizes).macs / macs,
        }
    assert case.network is not None
    network, _ = case.network()
    ways: dict[str, Callable[[Any], Any]] = {
        "torch.nn.utils.prune.l1_unstructured": lambda layer: prune.l1_unstructured(layer, "weight", AMOUNT),
        "torch.nn.utils.prune.ln_structured": lambda layer: prune.ln_structured(layer, "weight", AMOUNT, n=1, dim=0),
    }
    for name, way in ways.items():
        naive = copy.deepcopy(network)
        for layer in naive.modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                way(layer)
        with torch.inference_mode():
            found = np.concatenate([naive(part).argmax(1).numpy() for part in torch.from_numpy(images).split(500)])
        rows[name] = {"agreement": float(np.mean(found == whole)), "macs_saved": 0.0}
    return {"images": len(images), "rows": rows}


def _classes(module: Module, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with OrtRunner(module) as runner:
        parts = np.array_split(images, max(1, len(images) // 500))
        return np.concatenate([next(iter(runner.run({"image": part}).values())).argmax(1) for part in parts])
