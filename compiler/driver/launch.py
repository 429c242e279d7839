"""Several processes that train together (`accelerate launch`): one compiles, the others join it for what trains.

The main process runs the recipe as ever. Before a step that trains it tells the others which one; they take the step's
input from the store, which they share, run the pass beside it and drop the result. They write nothing.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mopt.build.executor import Executor
from mopt.build.keys import Keys
from mopt.build.measure import DataAccess
from mopt.build.progress import SilentReporter
from mopt.fingerprint import FileHashes
from mopt.plan import Plan, make_plan
from mopt.plugin import PluginError
from mopt.store import Store, default_root

if TYPE_CHECKING:
    from mopt.driver.compile import CompileOptions


def processes() -> int:
    """Return how many processes were launched together; 1 for a plain command."""
    # Schedulers set some of these for programs that are no part of a launch.
    if not all(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")):
        return 1
    return int(os.environ["WORLD_SIZE"])


def is_follower() -> bool:
    """Tell whether this process was launched to help another one train."""
    return processes() > 1 and int(os.environ["RANK"]) > 0


def trains(plan: Plan) -> bool:
    """Tell whether a plan has a step that processes could share."""
    return any(step.operation is not None and step.operation.trains for step in plan.steps.values())


class Launch:
    """What the processes tell each other outside of training; the main one tells, the others listen.

    Raises:
        PluginError: Accelerate is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("accelerate") is None:
            raise PluginError("training in several processes needs Accelerate: pip install 'mopt[torch]'")
        from accelerate import PartialState
        from torch import distributed

        # Between two steps that train the main process may lower, evaluate and time models for long.
        patience = datetime.timedelta(days=7)
        PartialState(timeout=patience)
        self._distributed: Any = distributed
        self._group = distributed.new_group(backend="gloo", timeout=patience)

    def tell(self, step: str | None) -> None:
        """Say which step is trained next; None ends it all."""
        self._distributed.broadcast_object_list([step], src=0, group=self._group)

    def listen(self) -> str | None:
        """Wait for what the main process says."""
        said: list[str | None] = [None]
        self._distributed.broadcast_object_list(said, src=0, group=self._group)
        return said[0]

    def close(self) -> None:
        """Leave the group of processes."""
        self._distributed.destroy_process_group()


def follow(path: Path, options: CompileOptions) -> int:
    """Help the main process train, until it is done; return the exit status.

    A recipe that is wrong, a pass that fails: the main process says so.
    """
    from mopt.check import check

    checked = check(path, options.overrides)
    if checked.recipe is None or not checked.ok:
        return 0
    recipe, plan = checked.recipe, make_plan(checked.recipe)
    if not trains(plan):
        return 0
    launch = Launch()
    try:
        store, reporter = Store(options.store or default_root()), SilentReporter()
        with store.hold(), tempfile.TemporaryDirectory() as logs:
            keys = Keys(recipe, FileHashes(store.root / "hashes.json"))
            executor = Executor(plan, store, keys, reporter, DataAccess(recipe).split, Path(logs))
            while (step := launch.listen()) is not None:
                executor.join(step)
    finally:
        launch.close()
    return 0
