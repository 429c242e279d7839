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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.runtime.contract import TargetError
from mopt.runtime.trt.layers import LAYERS, write_layers
from mopt.runtime.trt.library import Found
from mopt.runtime.trt.shapes import Plan

if TYPE_CHECKING:
    from mopt.ir.module import Module


@dataclass(frozen=True)
class Settings:
    """What the builder is told, beside the network and the profile; see `TrtTarget` for the meanings."""

    capabilities: tuple[str, ...]
    workspace: int
    level: int
    tf32: bool
    timing_cache: bool


def build_engine(
    module: Module, found: Found, settings: Settings, profiles: Sequence[Plan], folder: Path
) -> tuple[tuple[Path, ...], Plan]:
    """Write an engine, its description and its layers into a folder; return the files and the profile it is for.

    The files are `model.engine`, `model.engine.json` and, where the builder names them, `model.engine.layers.json`.

    Raises:
        TargetError: the parser or the builder refuses the model (naming the nodes), or crashes.
    """
    from mopt.ir import save

    with tempfile.TemporaryDirectory(prefix="mopt-") as scratch:
        place = Path(scratch)
        files = save(module, place / "model.onnx")
        request = {
            "library": found.library,
            "model": "model.onnx",
            "profiles": [plan.shapes for plan in profiles],
            "capabilities": list(settings.capabilities) if found.library == "tensorrt_rtx" else [],
            "workspace": settings.workspace,
            "level": settings.level,
            "tf32": settings.tf32,
            "timing_cache": settings.timing_cache,
        }
        (place / "request.json").write_text(json.dumps(request), encoding="utf-8")
        answer = _run(place)
        if not answer["ok"]:
            raise _refusal(found, answer)
        plan = profiles[answer["profile"]]
        engine = folder / "model.engine"
        _move(place / "model.engine", engine)
        facts = _facts(found, request, answer, plan, digest(files), engine)
        layers = write_layers(module, facts["capabilities"], answer["layer_lists"], folder / LAYERS)
    description = folder / "model.engine.json"
    description.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return (engine, description, *([layers] if layers else [])), plan


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
    from mopt.runtime.gpu import gpus

    return {
        "built_by": {"mopt": __version__, found.library: answer["library_version"]},
        "capabilities": request["capabilities"] or [f"sm{gpu.capability[0]}{gpu.capability[1]}" for gpu in gpus()[:1]],
        "network": {"sha256": source, "layers": answer["layers"]},
        "engine": {"sha256": digest([engine]), "bytes": engine.stat().st_size},
        "inputs": answer["inputs"],
        "outputs": answer["outputs"],
        "profile": {key: list(sizes) for key, sizes in plan.ranges.items()},
        "settings": {key: request[key] for key in ("workspace", "level", "tf32", "timing_cache")},
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


def _refusal(found: Found, answer: Mapping[str, Any]) -> TargetError:
    told = []
    for error in answer["errors"][:5]:
        where = f"node `{error['node']}` ({error['operator']}): " if error["node"] or error["operator"] else ""
        told.append(f"{where}{error['message'].strip()}")
    more = len(answer["errors"]) - len(told)
    if more > 0:
        told.append(f"and {more} more")
    reasons = "; ".join(dict.fromkeys(told)) or "no reason given"
    verb = "can't take the model" if answer["stage"] == "parse" else "can't build an engine for it"
    name = "TensorRT" if found.library == "tensorrt" else "TensorRT for RTX"
    return TargetError(f"{name} {answer['library_version']} {verb}: {reasons}")


def _move(source: Path, target: Path) -> None:
    """Put a finished file in place at once, also from another file system."""
    import shutil

    partial = target.with_suffix(".part")
    shutil.copyfile(source, partial)
    partial.replace(target)
