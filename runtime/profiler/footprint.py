"""What a model costs besides time: seconds to load it, memory while it loads and runs.

Each candidate is loaded in a process of its own, so that no other model, and nothing that this process did before,
counts. Memory is what the process grew by since onnxruntime was imported: the model's, not the runtime's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from mopt.ir import Module

_RUNS: Final = 3


@dataclass(frozen=True)
class Footprint:
    """Attributes:
        load_seconds: from the file to a session that is ready to run.
        first_seconds: the first run, which may still allocate and compile.
        loaded_bytes: resident memory that the loaded model holds before it ran.
        peak_bytes: the most that was resident at once, loading and running included.
    """  # fmt: skip

    load_seconds: float
    first_seconds: float
    loaded_bytes: int
    peak_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def footprint(
    model: Module | Path,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    provider: str = "cpu",
    threads: int = 1,
    timeout: float = 600.0,
) -> Footprint:
    """Load and run a model in a fresh process.

    Args:
        model: a module, or an ONNX file.
        feeds: its inputs.
        provider, threads: as for `OrtRunner`.
        timeout: seconds after which it is given up.

    Raises:
        TargetError: it can't be loaded or run there; the message says why.
    """
    import numpy as np
    from mopt.ir import save
    from mopt.runtime.contract import TargetError

    with tempfile.TemporaryDirectory(prefix="mopt-") as text:
        folder = Path(text)
        path = model
        if not isinstance(model, Path):
            path = folder / "model.onnx"
            save(model, path)
        arrays: dict[str, Any] = {name: np.asarray(array) for name, array in feeds.items()}
        np.savez(folder / "feeds.npz", **arrays)
        command = [
            sys.executable, "-m", "mopt.runtime.profiler.footprint",
            str(path), str(folder / "feeds.npz"), provider, str(threads),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"loading and running it took longer than {timeout:g} s") from error
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0 or not lines:
            last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
            raise TargetError(f"the model can't be loaded in a process of its own: {last}")
        return Footprint(**json.loads(lines[-1]))


def _measure(model: str, feeds: str, provider: str, threads: int) -> Footprint:
    """Run in the child: load, run, and look at this process's memory."""
    import numpy as np
    from mopt.runtime.ort import OrtRunner

    with np.load(feeds) as stored:
        arrays = {name: stored[name] for name in stored.files}
    _start_up()
    before = _resident()
    start = time.perf_counter()
    runner = OrtRunner(Path(model), provider=provider, threads=threads)  # type: ignore[arg-type]
    loaded = time.perf_counter()
    held = _resident() - before
    runner.run(arrays)
    first = time.perf_counter()
    for _ in range(_RUNS):
        runner.run(arrays)
    return Footprint(loaded - start, first - loaded, max(held, 0), max(_peak() - before, 0))


def _start_up() -> None:
    """Run a model of one node: what onnxruntime sets up once is nobody's."""
    import numpy as np
    from mopt.runtime.ort import OrtRunner
    from onnx import TensorProto, helper

    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "one", port[:1], port[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    OrtRunner(model.SerializeToString()).run({"x": np.zeros(1, np.float32)})


def _resident() -> int:
    """Return the bytes of this process that are resident."""
    return _status("VmRSS") or _peak()


def _peak() -> int:
    """Return the most bytes of this process that were ever resident."""
    found = _status("VmHWM")
    if found is not None:
        return found
    import resource  # not everywhere: macOS counts bytes there

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _status(key: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def main(arguments: list[str]) -> int:
    """Entry of the child process: MODEL FEEDS PROVIDER THREADS; prints one line of JSON."""
    from mopt.runtime.contract import RunError, TargetError

    model, feeds, provider, threads = arguments
    try:
        found = _measure(model, feeds, provider, int(threads))
    except (TargetError, RunError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(json.dumps(found.to_json()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
