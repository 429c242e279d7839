"""Which models become TensorRT engines without a GPU: float16 and int8, one size and a dynamic batch.

    python tests/benchmarks/engines.py --output engines.json [--only NAME …]

Every model of the packages in `tests/models.txt` is simplified, lowered as the `trt` target asks, and built ahead of
time for SM80, SM89 and SM120 in one engine. int8 is `quantize.static(placement=tensorrt)`, calibrated on four seeded
samples: what matters here is whether it builds, and at which precision its layers run. Sizes other than the batch are
fixed, and so are scalar inputs that a graph branches on (`VALUES`), before it is quantised: what stands inside a
branch is left in float. A row that is in the output already is not built again, and a model all of whose rows are is
not obtained. `engines_page.py` writes `docs/engines.md` from the results.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Container, Iterator
from pathlib import Path
from typing import Any

from gpu_ways import VALUES, context, inputs
from mopt.ir import Module, load
from mopt.ir.provenance import stamp_source
from mopt.passes.contract import PassError
from mopt.passes.convert.bind import Bind
from mopt.passes.quantize.static import Static
from mopt.passes.simplify.simplify import Simplify
from mopt.plugin import default_registry
from mopt.runtime.contract import Sizes, TargetError
from mopt.runtime.dimensions import dynamic_dimensions
from mopt.runtime.inputs import binding_sets
from mopt.runtime.trt.layers import read_layers
from mopt.runtime.trt.library import find
from mopt.runtime.trt.target import TrtTarget
from mopt.values import DataRef
from simplify_models import Model, models

CAPABILITIES = ("sm80", "sm89", "sm120")
PRECISIONS, SHAPES = ("float16", "int8"), ("static", "dynamic batch")


def sizes_of(module: Module, name: str) -> dict[str, int]:
    """Sizes of dynamic dimensions: those of the list of models, found by the shapes it gives."""
    model = next(one for one in models() if one.name == name)
    found = dict(binding_sets(module)[0])
    for dimension in dynamic_dimensions(module):
        port, axis = dimension.places[0]
        if model.shapes and port in model.shapes[0]:
            found[dimension.key] = model.shapes[0][port][axis]
    return found


def batch_of(module: Module, name: str) -> frozenset[str]:
    """Dimensions that are the batch: the one in front, and those that have its sizes throughout (a state's second)."""
    shapes = next(one for one in models() if one.name == name).shapes
    found: dict[str, tuple[int, ...]] = {}
    for dimension in dynamic_dimensions(module):
        port, axis = dimension.places[0]
        found[dimension.key] = tuple(given[port][axis] for given in shapes if port in given)
    leading = [d.key for d in dynamic_dimensions(module) if any(axis == 0 for _, axis in d.places)]
    if len(leading) != 1 or len(set(found[leading[0]])) < 2:
        return frozenset()
    return frozenset(key for key, sizes in found.items() if sizes == found[leading[0]])


def quantised(module: Module, sizes: dict[str, int], folder: Path) -> Module:
    """int8 in TensorRT's terms, calibrated on four seeded samples."""
    if VALUES.keys() & {port.name for port in module.inputs}:
        bound = Bind(values=VALUES).run(module, context(folder)).module
        module = Simplify().run(bound, context(folder)).module
    ready = context(folder, [inputs(module, sizes, seed) for seed in range(4)])
    return Static(data=DataRef("d", "calib"), placement="tensorrt").run(module, ready).module


def build(module: Module, sizes: dict[str, int], batch: Collection[str]) -> dict[str, Any]:
    """Build an engine as `mopt compile --target trt` does, and say what came of it."""
    profile = {key: (1, 1, 8) if key in batch else (size,) for key, size in sizes.items()}
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


def listed() -> list[Model]:
    """The models to build. The `light` ones carry no weights of their own: what they would build says nothing."""
    return [model for model in models() if not model.name.startswith("light-")]


def key_of(name: str, precision: str, shape: str) -> str:
    """Name a row."""
    return f"{name} {precision} {shape}"


def rows(name: str, folder: Path, skip: Container[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Build a model's engines one after the other, those in `skip` left out; yield each row with its key."""
    source = load(next(model for model in models() if model.name == name).obtain(folder))
    stamp_source(source)
    base = Simplify().run(source, context(folder)).module
    sizes = sizes_of(base, name)
    batch = batch_of(base, name)
    for precision in PRECISIONS:
        for shape in SHAPES:
            key = key_of(name, precision, shape)
            if key in skip:
                continue
            try:
                if shape != "static" and not batch:
                    raise PassError("its batch is fixed in the file")
                ready = base.clone() if precision == "float16" else quantised(base.clone(), sizes, folder)
                row = build(ready, sizes, () if shape == "static" else batch)
            except PassError as error:
                row = {"ok": False, "reason": str(error)}
            if row["ok"] and precision == "int8" and not any(kind.startswith("i8") for kind in row["precisions"]):
                row = {"ok": False, "reason": "no layer of it takes int8"}
            yield key, row


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
    for name in (model.name for model in listed()):
        keys = [key_of(name, precision, shape) for precision in PRECISIONS for shape in SHAPES]
        if (given.only and name not in given.only) or results["rows"].keys() >= set(keys):
            continue
        with tempfile.TemporaryDirectory() as text:
            for key, row in rows(name, Path(text), skip=results["rows"]):
                results["rows"][key] = row
                print(key, {word: value for word, value in row.items() if word != "seconds"}, flush=True)
                given.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
