"""What `mopt profile` is given: ONNX files, steps of builds, whole builds, engines, models of a recipe run eagerly."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.driver.output import MANIFEST
from mopt.driver.references import load_reference
from mopt.runtime.contract import SourceError, TargetError
from mopt.store.files import read_json

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.runtime.contract import Runner, Source
    from mopt.runtime.ort_options import GpuOptions

_ENGINES: Final = (".plan", ".engine")


@dataclass(frozen=True)
class Candidate:
    """One model to time.

    Attributes:
        name: as the report calls it.
        runtime: what runs it: `onnxruntime`, `torch`, `keras`, `tensorrt_rtx` …
        module: its graph, where there is one; inputs are drawn for the first candidate's that has one.
        open: loads it.
        lower: for a model of a framework, turns it into a graph (slow): where no other candidate has one.
        engine: the file of an engine; `runtime` loads it.
        precision: what it computes in, where it has no graph to tell.
    """

    name: str
    runtime: str
    module: Module | None
    open: Callable[[], Runner]
    lower: Callable[[], Module] | None = None
    engine: Path | None = None
    precision: str = ""


def candidates(
    references: Sequence[str], provider: Any = "cpu", threads: int = 1, gpu: GpuOptions | None = None
) -> list[Candidate]:
    """Find what the command line names, in order.

    Args:
        references: `model.onnx`, `BUILD/PIPELINE[@STEP]`, `BUILD` (all its pipelines), an engine or
            `model.parts.json`, or `RECIPE.mopt:MODEL` (a declared model, run by its own framework).
        provider, threads, gpu: for what onnxruntime runs; `threads` for frameworks too, which run on the GPU, in
            float16, where the provider is a GPU's.

    Raises:
        LoadError, StoreError, SourceError, TargetError: one can't be found or opened.
    """
    found: list[Candidate] = []
    for reference, name in zip(references, _names(references), strict=True):
        recipe, _, model = reference.rpartition(":")
        path = Path(reference)
        if recipe.endswith(".mopt"):
            found.append(_eager(Path(recipe), model, name, provider, threads))
        elif path.name.endswith(".parts.json"):
            found.append(_parts(path, name))
        elif path.suffix in _ENGINES:
            found.append(_engine(path, name))
        elif path.suffix == ".mopt":
            raise SourceError(f"{reference} is a recipe; name one of its models: `{reference}:MODEL`")
        elif path.is_dir() and isinstance(manifest := read_json(path / MANIFEST), dict):
            results = [pipeline for pipeline, entry in manifest["pipelines"].items() if entry["result"] is not None]
            for pipeline in results:
                module = load_reference(path / pipeline)
                found.append(of_graph(module, f"{name}/{pipeline}", provider, threads, gpu))
        else:
            found.append(of_graph(load_reference(path), name, provider, threads, gpu))
    return found


def of_graph(
    module: Module, name: str, provider: Any = "cpu", threads: int = 1, gpu: GpuOptions | None = None
) -> Candidate:
    """Return a graph as a candidate that onnxruntime runs."""
    from mopt.runtime.ort import OrtRunner

    runtime = "onnxruntime" if provider == "cpu" else f"onnxruntime, {provider}"
    if gpu is not None and gpu.cuda_graph:
        runtime += ", CUDA graph"
    return Candidate(name, runtime, module, lambda: OrtRunner(module, provider=provider, threads=threads, options=gpu))


def _eager(recipe: Path, model: str, name: str, provider: Any, threads: int) -> Candidate:
    from mopt.check import check

    result = check(recipe)
    if result.recipe is None or not result.ok:
        raise SourceError(f"{recipe} is not a valid recipe; `mopt check {recipe}` says why")
    declared = result.recipe.models.get(model)
    if declared is None:
        known = ", ".join(result.recipe.models) or "none"
        raise SourceError(f"{recipe} declares no model `{model}`; it declares {known}")
    source: Source = declared.source

    def lower() -> Module:
        with tempfile.TemporaryDirectory(prefix="mopt-") as scratch:
            module = source.load(Path(scratch), result.recipe.seed if result.recipe else 0).module
            module.let_go()
            return module

    if provider == "cpu":
        return Candidate(name, source.name, None, lambda: source.eager(threads), lower, precision="float32")
    return Candidate(
        name, f"{source.name}, {provider}", None, lambda: source.eager(threads, gpu=True), lower, precision="float16"
    )


def _engine(path: Path, name: str) -> Candidate:
    if not path.is_file():
        raise TargetError(f"{path}: there is no such file")
    try:
        built_by = json.loads(path.with_name(f"{path.name}.json").read_text(encoding="utf-8"))["built_by"]
        library = next(name for name in built_by if name.startswith("tensorrt"))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise TargetError(
            f"{path}: nothing beside it says which library built it",
            help=f"keep `{path.name}.json`, which `mopt compile` wrote with it",
        ) from None

    def open_it() -> Runner:
        from mopt.runtime.contract import Artifact
        from mopt.runtime.trt.target import TrtTarget

        target = TrtTarget(library=library)
        size = path.stat().st_size
        return target.open(Artifact(path, (path,), size, size))

    return Candidate(name, library, None, open_it, engine=path)


def _parts(path: Path, name: str) -> Candidate:
    """A graph that TensorRT did not take whole, with all its parts."""
    from mopt.runtime.contract import Artifact
    from mopt.runtime.trt.parts import read_parts
    from mopt.runtime.trt.target import TrtTarget

    library: Any = next((one for one in read_parts(path).get("built_by", {}) if one.startswith("tensorrt")), "auto")
    size = path.stat().st_size
    artifact = Artifact(path, (path,), size, size)
    return Candidate(name, f"{library}, onnxruntime", None, lambda: TrtTarget(library=library).open(artifact))


def _names(references: Sequence[str]) -> list[str]:
    """Name models by their files, or by whole paths where files are named alike; one given twice gets a number."""
    names: list[str] = []
    files = [Path(reference).name for reference in references]
    alike = len(set(files)) < len(set(references))
    for reference, file in zip(references, files, strict=True):
        base = name = reference if alike else file
        number = 2
        while name in names:
            name, number = f"{base} ({number})", number + 1
        names.append(name)
    return names
