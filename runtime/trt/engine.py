"""Turn a module into a TensorRT engine by a builder process, and write what was built beside it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import TargetError
from mopt.runtime.gpu import gpus
from mopt.runtime.trt.layers import LAYERS, write_layers
from mopt.runtime.trt.library import Found
from mopt.runtime.trt.refusal import readable, refusal
from mopt.runtime.trt.shapes import Plan
from mopt.runtime.trt.timing import NONE_HERE, cache_file, read_cache, write_cache

if TYPE_CHECKING:
    from mopt.ir.module import Module


_RECORDED: Final = ("workspace", "level", "tf32", "timing_cache", "refit", "version_compatible", "hardware")


@dataclass(frozen=True)
class Settings:
    """What the builder is told, beside the network and the profile; see `TrtTarget` for the meanings."""

    capabilities: tuple[str, ...]
    workspace: int
    level: int
    tf32: bool
    timing_cache: bool
    refit: bool = False
    version_compatible: bool = False
    hardware: str = "none"
    values: Mapping[str, float] = field(default_factory=dict)


def build_engine(
    module: Module, found: Found, settings: Settings, profiles: Sequence[Plan], folder: Path
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Write an engine, its description and its layers into a folder; return the files and what a reader should know.

    The files are `model.engine`, `model.engine.json` and, where the builder names them, `model.engine.layers.json`.

    Raises:
        TargetError: the parser or the builder refuses the model (naming the nodes), or crashes.
    """
    from mopt.ir import save

    capabilities = capabilities_of(found, settings)
    notes = []
    with tempfile.TemporaryDirectory(prefix="mopt-") as scratch:
        place = Path(scratch)
        files = save(module, place / "model.onnx")
        request = {
            "library": found.library,
            "model": "model.onnx",
            "profiles": [plan.shapes for plan in profiles],
            "capabilities": capabilities if found.library == "tensorrt_rtx" else [],
            "workspace": settings.workspace,
            "level": settings.level,
            "tf32": settings.tf32,
            "timing_cache": settings.timing_cache,
            "refit": settings.refit,
            "version_compatible": settings.version_compatible,
            "hardware": settings.hardware,
        }
        timings = None
        if settings.timing_cache and found.library == "tensorrt":
            timings = cache_file(found.library, found.version, capabilities[0])
            known, problem = read_cache(timings)
            (place / "timing.cache").write_bytes(known)
            notes += [f"{problem}: {timings}"] if problem else []
        elif settings.timing_cache:
            notes.append(NONE_HERE)
        (place / "request.json").write_text(json.dumps(request), encoding="utf-8")
        answer = _run(place)
        if not answer["ok"]:
            raise refusal(found.library, answer, module)
        if timings is not None and (place / "timing.cache").stat().st_size:
            write_cache(timings, (place / "timing.cache").read_bytes())
        notes += [f"TensorRT: {readable(warning)}" for warning in answer.get("warnings", ())]
        plan = profiles[answer["profile"]]
        notes += [plan.note] if plan.note else []
        engine = folder / "model.engine"
        _move(place / "model.engine", engine)
        facts = _facts(found, request, answer, plan, digest(files), engine)
        facts |= {"capabilities": capabilities, "values": dict(settings.values)}
        layers = write_layers(module, facts["capabilities"], answer["layer_lists"], folder / LAYERS)
    description = folder / "model.engine.json"
    description.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return (engine, description, *([layers] if layers else [])), tuple(notes)


def capabilities_of(found: Found, settings: Settings) -> list[str]:
    """Return the compute capabilities an engine will be for.

    Raises:
        TargetError: an option does not go with this library, or not without a GPU.
    """
    here = gpus()
    if found.library == "tensorrt":
        return [f"sm{gpu.capability[0]}{gpu.capability[1]}" for gpu in here[:1]]
    if settings.version_compatible or settings.hardware != "none":
        option = "version_compatible" if settings.version_compatible else "hardware"
        raise TargetError(
            f"TensorRT for RTX has no `{option}`: its engines are for the version and the capabilities they name",
            help="name every GPU under `capabilities`, or build with `library=tensorrt`",
        )
    if settings.refit and not here:
        raise TargetError(
            "TensorRT for RTX builds engines that can be refitted only where there is a GPU (its compiler asks for it)",
            missing=True,
            help="leave `refit` out: engines build in seconds, or build on a machine with the GPU",
        )
    return list(settings.capabilities)


def digest(files: Sequence[Path]) -> str:
    """Return one SHA-256 over files in the order given (hex)."""
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _facts(
    found: Found, request: Mapping[str, Any], answer: Mapping[str, Any], plan: Plan, source: str, engine: Path
) -> dict[str, Any]:
    from mopt import __version__

    return {
        "built_by": {"mopt": __version__, found.library: answer["library_version"]},
        "capabilities": [],
        "network": {"sha256": source, "layers": answer["layers"]},
        "engine": {"sha256": digest([engine]), "bytes": engine.stat().st_size},
        "inputs": answer["inputs"],
        "outputs": answer["outputs"],
        "profile": {key: list(sizes) for key, sizes in plan.ranges.items()},
        "settings": {key: request[key] for key in _RECORDED},
        "fixed_addresses": answer["fixed_addresses"],
    }


def _run(place: Path) -> dict[str, Any]:
    # The same environment for every build: its size moves the stack, and with it what the builder hashes by address.
    environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    environment |= {
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(_search_path()),
    }
    environment |= {"HOME": str(place), "TMPDIR": str(place)}
    process = subprocess.Popen(
        [sys.executable, "-P", "-s", "-m", "mopt.runtime.trt.build"],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches us alone, and we end it
    )
    try:
        said, _ = process.communicate()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    answer = place / "answer.json"
    if process.returncode == 0 and answer.is_file():
        result: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return result
    raise TargetError(
        f"the TensorRT builder {_ending(process.returncode)}",
        help=_tail(said.decode(errors="replace")) or "its output was empty",
    )


def _search_path() -> list[str]:
    """Return what this process put on its path beyond the interpreter's own (an editable install is on neither)."""
    return [entry for entry in sys.path if entry and Path(entry).is_dir()]


def _ending(status: int) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = str(-status)
        return f"crashed ({name})"
    return f"ended with status {status}"


def _tail(text: str, lines: int = 6) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def _move(source: Path, target: Path) -> None:
    """Put a finished file in place at once, also from another file system."""
    import shutil

    partial = target.with_suffix(".part")
    shutil.copyfile(source, partial)
    partial.replace(target)
