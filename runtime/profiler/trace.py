"""onnxruntime's own profile of some runs, and the graph that it ran.

On a GPU kernels run behind the host's back, and what onnxruntime counts is their launch: there a process of its own
makes every launch wait for its kernel (`CUDA_LAUNCH_BLOCKING`, which counts only when it is set before CUDA starts).
That adds some microseconds to each operator: shares say where time goes, the model's own time is measured without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import RunError, TargetError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from mopt.ir import Module
    from mopt.runtime.ort_provider import Provider

_NOT_HERE: Final = 4
_TIME_LIMIT: Final = 600.0


def trace(
    module: Module,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    folder: Path,
    *,
    provider: Provider,
    threads: int,
    runs: int,
    apart: bool | None = None,
) -> tuple[list[dict[str, Any]], onnx.GraphProto]:
    """Run a module so many times; return onnxruntime's events and the graph it ran.

    Args:
        module: what to run.
        feeds: its inputs.
        folder: an empty folder for what is written on the way.
        provider, threads: as for `OrtRunner`.
        runs: how many.
        apart: in a process of its own; by default on a GPU.

    Raises:
        TargetError: onnxruntime refuses the model, or lacks the provider.
        RunError: the model does not take the inputs.
    """
    import onnx

    if apart if apart is not None else provider != "cpu":
        _run_apart(module, feeds, folder, provider, threads, runs)
    else:
        _run(module, feeds, folder, provider, threads, runs)
    (profile,) = folder.glob("profile*.json")
    events = json.loads(profile.read_text(encoding="utf-8"))
    return events, onnx.load(folder / "optimized.onnx", load_external_data=False).graph


def _run(model: Any, feeds: Mapping[str, Any], folder: Path, provider: Any, threads: int, runs: int) -> None:
    from mopt.runtime.ort import OrtRunner

    with OrtRunner(model, provider=provider, threads=threads, traced=folder) as runner:
        for _ in range(runs):
            runner.run(feeds)
        runner.end_trace()


def _run_apart(module: Module, feeds: Mapping[str, Any], folder: Path, provider: str, threads: int, runs: int) -> None:
    import numpy as np
    from mopt.ir import save

    save(module, folder / "model.onnx")
    arrays: dict[str, Any] = {name: np.asarray(array) for name, array in feeds.items()}
    np.savez(folder / "feeds.npz", **arrays)
    command = [sys.executable, "-m", "mopt.runtime.profiler.trace", str(folder), provider, str(threads), str(runs)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False,
            env=os.environ | {"CUDA_LAUNCH_BLOCKING": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"timing its operators took longer than {_TIME_LIMIT:g} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise TargetError(f"its operators can't be timed: {last}", missing=done.returncode == _NOT_HERE)


def main(arguments: list[str]) -> int:
    """Entry of the child process: FOLDER PROVIDER THREADS RUNS."""
    import numpy as np

    place, provider, threads, runs = arguments
    folder = Path(place)
    try:
        with np.load(folder / "feeds.npz") as stored:
            feeds = {name: stored[name] for name in stored.files}
        _run(folder / "model.onnx", feeds, folder, provider, int(threads), int(runs))
    except (TargetError, RunError) as error:
        sys.stderr.write(f"{error}\n")
        return _NOT_HERE if getattr(error, "missing", False) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
