"""An opaque tool in a process of its own: it may crash or hang without taking the compiler along."""

from __future__ import annotations

import atexit
import functools
import os
import selectors
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

_WORKER: Final = Path(__file__).with_name("worker.py")


class ToolError(Exception):
    """An opaque tool crashed, hung, or says that it failed. The message says which."""


class ToolProcess:
    """One tool, kept running from model to model: importing it takes longer than most models do.

    Args:
        tool: `onnxsim` or `onnxoptimizer`.
    """

    def __init__(self, tool: str) -> None:
        self.tool = tool
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def start(self) -> None:
        """Start the process, if it isn't running, without waiting until the tool is imported."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in stop
        # Not importable by accident: the folder of the script would come first in the path.
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(_WORKER), self.tool]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment
        )

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
        if self._errors is not None:
            self._errors.close()
        self._process = self._errors = None

    def send(self, model: bytes, names: Sequence[str] = ()) -> None:
        """Hand a model over, to be fetched with `receive`.

        Args:
            model: a serialised model.
            names: the optimiser's own passes to run (onnxoptimizer) or to leave out (onnxsim).

        Raises:
            ToolError: the tool can't be started or dies on import.
        """
        self.start()
        assert self._process is not None and self._process.stdin is not None
        listed = ",".join(names).encode()
        try:
            self._process.stdin.write(struct.pack("<QQ", len(model), len(listed)) + listed)
            self._process.stdin.write(model)
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise ToolError(self._death()) from error

    def receive(self, timeout: float) -> bytes:
        """Return the model that the tool made of the one sent.

        Raises:
            ToolError: it failed, crashed, or took longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        status, size = struct.unpack("<BQ", self._read(9, deadline, timeout))
        answer = self._read(size, deadline, timeout)
        if status:
            lines = [line.strip() for line in answer.decode(errors="replace").splitlines() if line.strip()]
            raise ToolError(f"{self.tool} failed: {' '.join(lines)[:300]}")
        return answer

    def _read(self, size: int, deadline: float, timeout: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        descriptor, parts, missing = self._process.stdout.fileno(), [], size
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while missing:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.stop()
                    raise ToolError(f"{self.tool} took longer than {timeout:g} s and was stopped")
                part = os.read(descriptor, min(missing, 1 << 20))
                if not part:
                    raise ToolError(self._death())
                parts.append(part)
                missing -= len(part)
        return b"".join(parts)

    def _death(self) -> str:
        assert self._process is not None and self._errors is not None
        code = self._process.wait()
        self._errors.seek(0)
        said = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        self.stop()
        end = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
        return f"{self.tool} {end}" + (f": {said[-1].strip()[:200]}" if said else "")


@functools.cache
def tool_process(tool: str) -> ToolProcess:
    """Return the process of a tool that everything in this interpreter shares."""
    process = ToolProcess(tool)
    atexit.register(process.stop)
    return process
