"""The process that conversions run in: `python -m mopt.passes.convert.child SCRATCH`, started by `worker`.

Standard input carries the job and then stays open: when it ends, the parent is gone, and so is this process.
Standard output and error go to a log file, because frameworks are talkative; what the recipe's own code prints
goes to the parent's standard error, never to its standard output, which belongs to `--json`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

from mopt.passes.convert.worker import LOG, PHASE, RESULT


def main(scratch: Path) -> None:
    """Run one job and leave its result in the scratch folder."""
    lifeline = os.dup(0)
    console = os.dup(2)
    nothing = os.open(os.devnull, os.O_RDWR)
    log = os.open(scratch / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(nothing, 0)
    _redirect(log)
    faulthandler.enable(all_threads=False)
    with os.fdopen(lifeline, "rb", closefd=False) as stream:
        size = int.from_bytes(stream.read(8), "little")
        function, source, seed = pickle.loads(stream.read(size))
    threading.Thread(target=_die_with_parent, args=(lifeline,), daemon=True).start()

    def phase(text: str) -> None:
        (scratch / PHASE).write_text(text, encoding="utf-8")
        _redirect(console if text.startswith("running ") else log)

    result: dict[str, object]
    try:
        module_name, _, name = function.partition(":")
        notes = getattr(importlib.import_module(module_name), name)(source, scratch, seed, phase)
        result = {"notes": list(notes)}
    except Exception as error:  # noqa: BLE001 - the parent raises it again
        kind = "error" if type(error).__name__ == "SourceError" else "bug"
        result = {kind: str(error) if kind == "error" else traceback.format_exc()}
    temporary = scratch / f"{RESULT}.part"
    temporary.write_text(json.dumps(result), encoding="utf-8")
    temporary.replace(scratch / RESULT)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(0)  # frameworks' exit handlers have hung and crashed processes whose work was done


def _redirect(descriptor: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)


def _die_with_parent(lifeline: int) -> None:
    for _ in _blocks(lifeline):
        pass
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def _blocks(descriptor: int) -> Iterator[bytes]:
    while block := os.read(descriptor, 1):
        yield block


if __name__ == "__main__":
    main(Path(sys.argv[1]))
