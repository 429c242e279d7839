"""What the compiler offers a pass while it runs; see `mopt.passes.contract.Context`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mopt.build.progress import Activity, Reporter
    from mopt.ir import Module
    from mopt.runtime.contract import Split
    from mopt.values import DataRef


@dataclass(frozen=True)
class StepContext:
    """The context of one step. `bindings` gives sizes to dynamic dimensions by name."""

    seed: int
    bindings: Mapping[str, int]
    scratch: Path
    reporter: Reporter
    open_split: Callable[[DataRef], Split]
    load_model: Callable[[str], Module]

    def split(self, reference: DataRef) -> Split:
        """Return the samples a data reference names."""
        return self.open_split(reference)

    def module(self, name: str) -> Module:
        """Return a declared model or an earlier pipeline's result."""
        return self.load_model(name)

    def progress(self, description: str, total: int | None = None) -> AbstractContextManager[Activity]:
        """Open a progress bar."""
        return self.reporter.activity(description, total)
