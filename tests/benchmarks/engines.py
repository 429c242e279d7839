"""Which models become TensorRT engines without a GPU: float16 and int8, one size and a dynamic batch.

    python tests/benchmarks/engines.py --output engines.json [--only NAME …]

Every model of the packages in `tests/models.txt` is simplified, lowered as the `trt` target asks, and built ahead of
time for SM80, SM89 and SM120 in one engine. int8 is `quantize.static(placement=tensorrt)`, calibrated on four seeded
samples: what matters here is whether it builds, and at which precision its layers run. Sizes other than the batch are
fixed, and so are scalar inputs that a graph branches on (`VALUES`). A row that is in the output already is not built
again, and a model all of whose rows are is not obtained.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mopt.ir import Module, load
from mopt.ir.provenance import stamp_source
from mopt.passes.contract import PassError
from mopt.passes.quantize.static import Static
from mopt.passes.simplify.simplify import Simplify
from mopt.plugin import default_registry
from mopt.runtime.contract import Sizes, TargetError
from mopt.runtime.dimensions import dynamic_dimensions
from mopt.runtime.inputs import binding_sets, seeded_inputs
from mopt.runtime.trt.layers import read_layers
from mopt.runtime.trt.library import find
from mopt.runtime.trt.target import TrtTarget
from mopt.values import DataRef
from simplify_models import models

CAPABILITIES = ("sm80", "sm89", "sm120")
VALUES = {"sr": 16000.0}
"""Inputs that have one value: the sampling rate, which Silero's graphs branch on."""
PRECISIONS, SHAPES = ("float16", "int8"), ("static", "dynamic batch")


class Seeded:
    """A split of seeded inputs, each a batch of its own: not every input has its batch axis in front (`state`)."""

    name, pad = "seeded", False

    def __init__(self, module: Module, sizes: dict[str, int], count: int = 4) -> None:
        self._feeds = [seeded_inputs(module, sizes, seed=seed) for seed in range(count)]
        for feeds in self._feeds:
            for name in feeds.keys() & VALUES.keys():
                feeds[name] = np.full_like(feeds[name], VALUES[name])

    def __len__(self) -> int:
        return len(self._feeds)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._feeds)

    def batches(self, size: int) -> Iterator[Any]:
        """Each sample as it is."""
        del size
        return iter(self._feeds)


@contextlib.contextmanager
def bar(*_: Any, **__: Any) -> Iterator[Any]:
    """A progress bar that shows nothing."""
    yield SimpleNamespace(advance=lambda *_: None, describe=lambda *_: None)


def context(folder: Path, split: Seeded | None = None) -> Any:
    """What a pass may ask for."""
    return SimpleNamespace(seed=0, bindings={}, scratch=folder, progress=bar, split=lambda _: split)


def sizes_of(module: Module, name: str) -> dict[str, int]:
    """Sizes of dynamic dimensions: those of the list of models, found by the shapes it gives."""
    model = next(one for one in models() if one.name == name)
    found = dict(binding_sets(module)[0])
    for dimension in dynamic_dimensions(module):
        port, axis = dimension.places[0]
        if model.shapes and port in model.shapes[0]:
            found[dimension.key] = model.shapes[0][port][axis]
    return found


def quantised(module: Module, sizes: dict[str, int], folder: Path) -> Module:
    """int8 in TensorRT's terms, calibrated on four seeded samples."""
    ready = context(folder, Seeded(module, sizes))
    return Static(data=DataRef("d", "calib"), placement="tensorrt").run(module, ready).module


def build(module: Module, sizes: dict[str, int], batch: str | None, dynamic: bool) -> dict[str, Any]:
    """Build an engine as `mopt compile --target trt` does, and say what came of it."""
    profile = {key: (1, 1, 8) if dynamic and key == batch else (size,) for key, size in sizes.items()}
    target = TrtTarget(precision="fp16", capabilities=CAPABILITIES, profile=profile, values=VALUES)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        start = time.perf_counter()
        try:
            for name, options in target.prepare():
                module = default_registry().get("passes", name)(**options).run(module, context(folder)).module
            artifact = target.emit(module, folder, Sizes())
        except (TargetError, PassError) as error:
            return {"ok": False, "reason": str(error), "seconds": time.perf_counter() - start}
        layers = next(iter(read_layers(artifact.path).values()))
        return {
            "ok": True, "seconds": time.perf_counter() - start, "bytes": artifact.bytes, "layers": len(layers),
            "precisions": dict(Counter(layer.precision for layer in layers if layer.nodes).most_common()),
        }  # fmt: skip


def main() -> None:
    """Build everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    found = find("tensorrt_rtx")
    assert found is not None, 'the benchmark needs TensorRT-RTX: pip install "mopt[tensorrt-rtx]"'
    results: dict[str, Any] = {
        "library": {found.library: found.version},
        "capabilities": list(CAPABILITIES),
        "rows": {},
    }
    if given.output.exists():
        results = json.loads(given.output.read_text(encoding="utf-8"))
    for model in models():
        # The `light` models carry no weights of their own: what they would build says nothing.
        if model.name.startswith("light-") or (given.only and model.name not in given.only):
            continue
        if results["rows"].keys() >= {
            f"{model.name} {precision} {shape}" for precision in PRECISIONS for shape in SHAPES
        }:
            continue
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            source = load(model.obtain(folder))
            stamp_source(source)
            base = Simplify().run(source, context(folder)).module
            sizes = sizes_of(base, model.name)
            leading = [d.key for d in dynamic_dimensions(base) if any(axis == 0 for _, axis in d.places)]
            batch = leading[0] if len(leading) == 1 else None
            for precision in PRECISIONS:
                for shape in SHAPES:
                    key = f"{model.name} {precision} {shape}"
                    if key in results["rows"]:
                        continue
                    try:
                        if shape != "static" and batch is None:
                            raise PassError("its batch is fixed in the file")
                        ready = base.clone() if precision == "float16" else quantised(base.clone(), sizes, folder)
                        row = build(ready, sizes, batch, shape != "static")
                    except PassError as error:
                        row = {"ok": False, "reason": str(error)}
                    results["rows"][key] = row
                    print(key, {name: value for name, value in row.items() if name != "seconds"}, flush=True)
                    given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
