"""Which steps of a plan are done already, for `mopt plan`. Runs no user code and no pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mopt.build.executor import Executor
from mopt.build.keys import Keys
from mopt.build.progress import SilentReporter
from mopt.fingerprint import FileHashes
from mopt.store import Store, default_root
from mopt.values import LocationError

if TYPE_CHECKING:
    from mopt.plan import Plan
    from mopt.runtime.contract import Split
    from mopt.values import DataRef


def cached_steps(plan: Plan, store_root: Path | None) -> dict[str, bool]:
    """Say for each step whether the store has its result; a file that is not there leaves its steps to run."""
    root = store_root or default_root()
    if not root.is_dir():
        return dict.fromkeys(plan.steps, False)
    store = Store(root)
    keys = Keys(plan.recipe, FileHashes(root / "hashes.json"))
    executor = Executor(plan, store, keys, SilentReporter(), _no_data, root)
    try:
        return executor.cached()
    except LocationError:
        return dict.fromkeys(plan.steps, False)


def _no_data(reference: DataRef) -> Split:
    raise AssertionError(f"planning opened {reference}")
