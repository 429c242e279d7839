"""Run a conversion in a process of its own.

Why a process: a recipe's factory may exit, crash or print; two recipes may each have a `model.py`; torch and
tensorflow quarrel in one process and hold on to gigabytes. A process ends all of that when it ends. It costs one
import of the framework (1.5 s for torch, 4 s for tensorflow), and only where nothing is cached.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from mopt.runtime.contract import Source, SourceError, SourceResult

if TYPE_CHECKING:
    from mopt.ir.module import Module

MODEL: Final = "model.onnx"
RESULT: Final = "result.json"
PHASE: Final = "phase.txt"
LOG: Final = "convert.log"

_ENVIRONMENT: Final = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # its fused kernels round differently from run to run on some machines
    "KERAS_BACKEND": "tensorflow",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
}


class ConversionError(RuntimeError):
    """mopt's own code failed in the conversion process; the message is the traceback from there."""


def need(extra: str, *modules: str) -> None:
    """Check that a framework is installed, without importing it.

    Raises:
        SourceError: a module is missing; the message names the extra that brings it.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        listed = ", ".join(f"`{name}`" for name in missing)
        verb = "is" if len(missing) == 1 else "are"
        raise SourceError(f'{listed} {verb} not installed here; run: pip install "mopt[{extra}]"')


def convert(function: str, source: Source, scratch: Path, seed: int) -> SourceResult:
    """Run `function(source, scratch, seed, phase) -> notes` in a new process and load the model it leaves.

    Args:
        function: `module:name`; it writes the model to `scratch / MODEL`.
        source: the configured source; it travels by pickle.
        scratch: an existing folder.

    Raises:
        SourceError: the conversion failed, or its process died.
        ConversionError: mopt's own code failed in there.
        KeyboardInterrupt: after the process was killed.
    """
    result = run(function, source, scratch, seed)
    notes = result.get("notes")
    return SourceResult(_load(scratch / MODEL), tuple(notes) if isinstance(notes, list) else ())


def run(function: str, source: Source, scratch: Path, seed: int) -> dict[str, object]:
    """Run the process to its end and return what it reported; see `convert`."""
    payload = pickle.dumps((function, source, seed))
    environment = {**os.environ, **_ENVIRONMENT}
    # -P: a `random.py` in the current folder must not stand in for the standard library's
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "mopt.passes.convert.child", str(scratch)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    relay = threading.Thread(target=_relay, args=(process.stderr,), daemon=True)
    relay.start()
    try:
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit status says more
            process.stdin.write(len(payload).to_bytes(8, "little") + payload)
            process.stdin.flush()
        status = process.wait()
    finally:
        _end(process)
        relay.join(timeout=2)
    return _reported(source, scratch, status)


def _reported(source: Source, scratch: Path, status: int) -> dict[str, object]:
    try:
        result: dict[str, object] = json.loads((scratch / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise SourceError(_death(source, scratch, status)) from None
    if "error" in result:
        raise SourceError(str(result["error"]))
    if "bug" in result:
        raise ConversionError(str(result["bug"]))
    return result


_LITTLE = 16 << 20
"""Free bytes below which a failed write is put down to the disk."""


def _death(source: Source, scratch: Path, status: int) -> str:
    try:
        phase = (scratch / PHASE).read_text(encoding="utf-8")
    except OSError:
        phase = "starting"
    if status < 0:
        try:
            how = f"was killed by {signal.Signals(-status).name}"
        except ValueError:
            how = f"was killed by signal {-status}"
        if status == -signal.SIGKILL:
            how += " (out of memory, most likely)"
    else:
        how = f"ended with exit status {status}"
    log = scratch / LOG
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-6:] if log.exists() else []
    if shutil.disk_usage(scratch).free < _LITTLE and any(os.strerror(errno.ENOSPC) in line for line in tail):
        return (
            f"no space left on the disk of {scratch} while converting the {source.name} model; what was finished is "
            "kept: free some space and run the same command again, or point --store to another disk"
        )
    shown = "".join(f"\n  {line[:200]}" for line in tail)
    return f"the process that converts this {source.name} model {how} while {phase}{shown}"


def _end(process: subprocess.Popen[bytes]) -> None:
    running = process.poll() is None
    if hasattr(os, "killpg"):  # also what a factory started and left behind: the session is ours
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    if running:
        process.kill()
        process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def _relay(stream: IO[bytes]) -> None:
    # through sys.stderr and not the descriptor, so that a progress display can keep its lines apart
    for line in stream:
        sys.stderr.write(line.decode("utf-8", "replace"))
        sys.stderr.flush()


def _load(path: Path) -> Module:
    from mopt.ir import LoadError, load

    try:
        return load(path)
    except LoadError as error:
        raise SourceError(f"the converted model can't be read back: {error}") from error
