"""Every registered pass that compresses: two runs on a real model give identical bits."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mopt.ir import Module, load, provenance, to_proto
from mopt.passes.simplify.rules import Rules
from mopt.plugin import default_registry
from mopt.runtime.data.splits import Samples
from mopt.values import DataRef, Location, NofM, Ratio

FAMILIES = ("cluster", "convert", "prune", "quantize")
MODEL = "ch_ppocr_mobile_v2.0_cls_infer"
"""Convolutions, depthwise ones, squeeze-and-excite; trained."""
OTHERS = {"prune.heads": "ch_PP-OCRv4_rec_infer"}
"""Passes that find nothing to do there."""

REGISTRY = default_registry()
NAMES = sorted(
    name
    for name in REGISTRY.names("passes")
    if name.split(".")[0] in FAMILIES and not REGISTRY.get("passes", name).trains
)
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "cluster.kmeans": [{"clusters": 16, "channels": 1, "data": DataRef("d", "calib")}],
    "prune.channels": [{"scope": "global", "criterion": "random"}],
    "quantize.weights": [{"data": DataRef("d", "calib")}],
}
"""Options beside the required ones that take another way through a pass."""

BAR: Any = SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)


@cache
def model(name: str) -> Module:
    module = load(Location(f"pkg:rapidocr_onnxruntime/models/{name}.onnx").resolve())
    provenance.stamp_source(module)
    return Rules().run(module, context(Path())).module


def context(folder: Path) -> Any:
    random = np.random.default_rng(0)
    samples = [{"x": random.uniform(-1, 1, (3, 48, 192)).astype(np.float32)} for _ in range(2)]
    split = Samples(samples, len(samples), "calib")
    return SimpleNamespace(
        seed=7, bindings={}, scratch=folder, progress=lambda *_, **__: nullcontext(BAR), split=lambda _: split
    )


def required(cls: Any) -> dict[str, Any]:
    """Return a value for every option that has no default, by its type."""
    values = {"Ratio": Ratio(0.2), "DataRef": DataRef("d", "calib"), "NofM": NofM(2, 4), "int": 17}
    return {
        field.name: values[str(field.type)]
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in NAMES for options in ({}, *VARIANTS.get(name, []))],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)) or "default",
)
def test_two_runs_identical_bits(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    cls = REGISTRY.get("passes", name)
    operation, before = cls(**required(cls), **options), model(OTHERS.get(name, MODEL))
    first, second = (operation.run(before.clone(), context(tmp_path)) for _ in range(2))
    assert to_proto(first.module, provenance=True).SerializeToString(deterministic=True) == to_proto(
        second.module, provenance=True
    ).SerializeToString(deterministic=True)
    assert first.notes == second.notes
