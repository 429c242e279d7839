"""How a command line names a module: an ONNX file, or a step of a build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mopt.driver.output import MANIFEST
from mopt.store import Store, StoreError
from mopt.store.files import read_json

if TYPE_CHECKING:
    from mopt.ir import Module


def load_reference(reference: Path) -> Module:
    """Load `model.onnx`, `BUILD/PIPELINE` or `BUILD/PIPELINE@STEP` (step 0 is what the pipeline started from).

    Raises:
        LoadError: the file is no ONNX model.
        StoreError: the build, the pipeline or the step is not there.
    """
    found = _build_of(reference)
    if found is None:
        from mopt.ir import load

        return load(reference)
    manifest, pipeline, step = found
    snapshot = _snapshot(manifest, reference, pipeline, step)
    return Store(Path(manifest["store"])).get_module(snapshot)


def _build_of(reference: Path) -> tuple[dict, str, str | None] | None:  # type: ignore[type-arg]
    if reference.is_file():
        return None
    manifest = read_json(reference.parent / MANIFEST)
    if not isinstance(manifest, dict):
        return None
    name = reference.name
    if name in manifest["pipelines"]:
        return manifest, name, None
    pipeline, _, step = name.rpartition("@")
    return manifest, pipeline or name, step if pipeline else None


def _snapshot(manifest: dict, reference: Path, pipeline: str, step: str | None) -> str:  # type: ignore[type-arg]
    entry = manifest["pipelines"].get(pipeline)
    if entry is None:
        known = ", ".join(manifest["pipelines"])
        raise StoreError(f"{reference}: the build has no pipeline `{pipeline}`; it has {known}")
    snapshots = [entry["base"], *(item["snapshot"] for item in entry["steps"])]
    if step is None:
        chosen = entry["result"]
    elif step.isdigit() and int(step) < len(snapshots):
        chosen = snapshots[int(step)]
    else:
        raise StoreError(f"{reference}: `{pipeline}` has the steps 0 to {len(snapshots) - 1}, not `{step}`")
    if chosen is None:
        raise StoreError(f"{reference}: that step has no result; compile the recipe again")
    return str(chosen)
