"""Checkpoints of a run: one file, whole or absent, that the same run finds again."""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch

FILE: Final = "checkpoint.pt"

_SHARE: Final = 0.05
"""Of the time that writing checkpoints may take, where they are large."""


class Checkpoints:
    """Writes a run's state now and then.

    Args:
        folder: where to; made when first needed. None keeps none.
        seconds: how often at most; 0 after every step.

    Attributes:
        problem: why the last one could not be written, or "".
    """

    def __init__(self, folder: Path | None, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self._last, self._cost = time.monotonic(), 0.0
        self.problem = ""

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        if self._folder is None:
            return False
        wait = self._seconds if not self._seconds else max(self._seconds, self._cost / _SHARE)
        return time.monotonic() - self._last >= wait

    def load(self) -> dict[str, Any] | None:
        """Return the state last written, its tensors on the CPU; None where there is none, or it is damaged."""
        if self._folder is None:
            return None
        try:
            state = torch.load(self._folder / FILE, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, ValueError):
            return None
        return state if isinstance(state, dict) else None

    def save(self, state: dict[str, Any]) -> None:
        """Write a state in place of the last one.

        Where it can't be written (a full disk) the last one stays, `problem` says why, and training goes on: hours of
        it are worth more than the means to interrupt it.
        """
        if self._folder is None:
            return
        started = time.monotonic()
        try:
            self._write(state)
            self.problem = ""
        except OSError as error:
            self.problem = error.strerror or str(error)
        self._last = time.monotonic()
        self._cost = self._last - started

    def _write(self, state: dict[str, Any]) -> None:
        assert self._folder is not None
        self._folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", dir=self._folder)
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._folder / FILE)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a killed process left half written."""
        assert self._folder is not None
        for part in self._folder.glob(".part-*"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > 3600:
                    part.unlink()
