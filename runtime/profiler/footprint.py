"""What a model costs besides time: seconds to load it, memory while it loads and runs.

Each candidate is loaded in a process of its own, so that no other model, and nothing that this process did before,
counts. Memory is what the process grew by since onnxruntime was imported and ran a model of one node: the model's,
not the runtime's. On a GPU the device's memory is watched, too.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.profiler.device_memory import DeviceMemory, free_bytes

if TYPE_CHECKING:
    import numpy as np
    from mopt.ir import Module

_RUNS: Final = 3
_NOT_HERE: Final = 4
"""The child's exit status where the machine, not the model, is at fault."""


@dataclass(frozen=True)
class Footprint:
    """Attributes:
        load_seconds: from the file to a session that is ready to run.
        first_seconds: the first run, which may still allocate and compile.
        loaded_bytes: resident memory that the loaded model holds before it ran.
        peak_bytes: the most that was resident at once, loading and running included.
        device_loaded_bytes, device_peak_bytes: the same of the GPU's memory; None where none is used.
    """  # fmt: skip

    load_seconds: float
    first_seconds: float
    loaded_bytes: int
    peak_bytes: int
    device_loaded_bytes: int | None = None
    device_peak_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def footprint(
    model: Module | Path,
    feeds: Mapping[str, np.ndarray[Any, Any]],
    *,
    provider: str = "cpu",
    threads: int = 1,
    library: str = "",
    timeout: float = 600.0,
) -> Footprint:
    """Load and run a model in a fresh process.

    Args:
        model: a module, an ONNX file, or an engine.
        feeds: its inputs.
        provider, threads: as for `OrtRunner`.
        library: for an engine, what loads it (`tensorrt`, `tensorrt_rtx`).
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
            str(path), str(folder / "feeds.npz"), provider, str(threads), library,
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"loading and running it took longer than {timeout:g} s") from error
        lines = done.stdout.strip().splitlines()
        if done.returncode != 0 or not lines:
            last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
            raise TargetError(
                f"the model can't be loaded in a process of its own: {last}", missing=done.returncode == _NOT_HERE
            )
        return Footprint(**json.loads(lines[-1]))


def _measure(open_it: Callable[[], Any], arrays: Mapping[str, Any], free: Callable[[], int] | None = None) -> Footprint:
    """Load and run here, and look at this process's memory, and at the GPU's where `free` tells it."""
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(DeviceMemory(free)) if free is not None else None
        before = _resident()
        start = time.perf_counter()
        runner = open_it()
        loaded = time.perf_counter()
        held, on_device = _resident() - before, device.held if device else None
        runner.run(arrays)
        first = time.perf_counter()
        for _ in range(_RUNS):
            runner.run(arrays)
        peak = device.peak if device else None
        return Footprint(loaded - start, first - loaded, max(held, 0), max(_peak() - before, 0), on_device, peak)


def _opening(model: str, provider: str, threads: int, library: str) -> Callable[[], Any]:
    """Return what loads a model, after what every model's first load sets up was done."""
    if library:
        from mopt.runtime.trt.runner import TrtRunner

        return lambda: TrtRunner(Path(model), library)
    from mopt.runtime.ort import OrtRunner

    _start_up(provider)
    return lambda: OrtRunner(Path(model), provider=provider, threads=threads)  # type: ignore[arg-type]


def _start_up(provider: str) -> None:
    """Run a model of one node: what onnxruntime sets up once is nobody's."""
    import numpy as np
    from mopt.runtime.ort import OrtRunner
    from onnx import TensorProto, helper

    port = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "one", port[:1], port[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    runner = OrtRunner(model.SerializeToString(), provider=provider)  # type: ignore[arg-type]
    runner.run({"x": np.zeros(1, np.float32)})


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
    """Entry of the child process: MODEL FEEDS PROVIDER THREADS LIBRARY; prints one line of JSON."""
    import numpy as np
    from mopt.runtime.contract import RunError, TargetError

    model, feeds, provider, threads, library = arguments
    try:
        with np.load(feeds) as stored:
            arrays = {name: stored[name] for name in stored.files}
        open_it = _opening(model, provider, int(threads), library)
        found = _measure(open_it, arrays, free_bytes() if library or provider != "cpu" else None)
    except (TargetError, RunError) as error:
        sys.stderr.write(f"{error}\n")
        return _NOT_HERE if getattr(error, "missing", False) else 1
    sys.stdout.write(json.dumps(found.to_json()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
