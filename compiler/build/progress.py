"""What a user sees on stderr while a recipe compiles: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Activity(Protocol):
    """One running activity; see `mopt.passes.contract.Progress`."""

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""

    def describe(self, text: str) -> None:
        """Change the text beside the bar."""


class Reporter(Protocol):
    """Where progress goes."""

    def line(self, text: str, *, style: str = "") -> None:
        """Leave a line that stays."""

    def activity(self, description: str, total: int | None = None) -> AbstractContextManager[Activity]:
        """Show an activity while it runs."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class SilentReporter:
    """Shows nothing."""

    def line(self, text: str, *, style: str = "") -> None:
        """Drop a line."""

    @contextmanager
    def activity(self, description: str, total: int | None = None) -> Iterator[Activity]:
        """Show nothing."""
        del description, total
        yield _Silent()

    def close(self) -> None:
        """Nothing is open."""


class _Silent:
    def advance(self, steps: int = 1) -> None:
        pass

    def describe(self, text: str) -> None:
        pass


class PlainReporter:
    """Plain lines, for logs and pipes. A long activity with a known total says every few seconds how far it is."""

    interval = 5.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def line(self, text: str, *, style: str = "") -> None:
        """Write a line."""
        del style
        print(text, file=self._stream, flush=True)

    @contextmanager
    def activity(self, description: str, total: int | None = None) -> Iterator[Activity]:
        """Say what runs once it has taken a while."""
        yield _PlainActivity(self, description, total)

    def close(self) -> None:
        """Nothing is open."""


class _PlainActivity:
    def __init__(self, reporter: PlainReporter, description: str, total: int | None) -> None:
        self._reporter, self._description, self._total = reporter, description, total
        self._done, self._said = 0, time.monotonic()
        self._started, self._first = self._said, 0

    def advance(self, steps: int = 1) -> None:
        if not self._done:  # what a first step loads, or an interrupted run had done, says nothing about the pace
            self._first, self._started = steps, time.monotonic()
        self._done += steps
        if time.monotonic() - self._said >= PlainReporter.interval:
            self._said = time.monotonic()
            of = f"/{self._total}{self._left()}" if self._total else ""
            self._reporter.line(f"    {self._description}: {self._done}{of}")

    def describe(self, text: str) -> None:
        self._description = text

    def _left(self) -> str:
        """Say how long the rest takes, at the pace so far."""
        done = self._done - self._first
        if not self._total or done <= 0:
            return ""
        seconds = round((time.monotonic() - self._started) / done * max(0, self._total - self._done))
        return f", {seconds // 60}:{seconds % 60:02} left"


class RichReporter:
    """Live bars on a terminal; finished lines scroll above them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self.console = Console(file=stream, highlight=False)
        self._progress: RichProgress | None = None

    def line(self, text: str, *, style: str = "") -> None:
        """Print a line above the bars."""
        from rich.text import Text

        self.console.print(Text(text, style=style))

    @contextmanager
    def activity(self, description: str, total: int | None = None) -> Iterator[Activity]:
        """Show a bar, or a spinner where the total is unknown."""
        progress = self._live()
        task = progress.add_task(description, total=total)
        try:
            yield _RichActivity(progress, task)
        finally:
            progress.remove_task(task)

    def close(self) -> None:
        """Stop the live display."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _live(self) -> RichProgress:
        if self._progress is None:
            from rich.progress import (
                BarColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TimeElapsedColumn(),
                TimeRemainingColumn(compact=True),
                console=self.console,
                transient=True,
            )
            self._progress.start()
        return self._progress


class _RichActivity:
    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, steps: int = 1) -> None:
        self._progress.advance(self._task, steps)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)


def reporter_for(stream: TextIO | None = None, *, quiet: bool = False) -> Reporter:
    """Choose a reporter: silent if asked, live on a terminal, plain elsewhere."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return SilentReporter()
    return RichReporter(stream) if stream.isatty() else PlainReporter(stream)
