"""Peak memory of simplify() and emit on a model of 1.5 GB, made on the fly.

    python tests/benchmarks/memory.py --output tests/benchmarks/results/memory.json

A chain of matrix products with biases and scales and random weights is written with external data, then
loaded, simplified and saved in a process of its own, of which the peak resident memory is taken, its children's added
(they run at the same time). `VmHWM` counts pages of mapped files, too: it is an upper bound. Exit status 1 if the peak
reaches 2.5 times the file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

LIMIT = 2.5

_WORK = """
import sys, json
from contextlib import contextmanager
from pathlib import Path
from mopt.ir import load, save
from mopt.passes.simplify.simplify import Simplify

class Context:
    seed, bindings = 0, {}
    @contextmanager
    def progress(self, description, total=None):
        yield None

result = Simplify().run(load(Path(sys.argv[1])), Context())
save(result.module, Path(sys.argv[2]))
print(json.dumps([sum(1 for _ in result.module.nodes()), [note.message for note in result.notes]]))
"""


def make(path: Path, megabytes: int) -> None:
    """Write an MLP with scaled activations whose weights take `megabytes` in external data."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    width = 4096
    layers = max(1, megabytes * 1_000_000 // (width * width * 4))
    rng = np.random.default_rng(0)
    nodes, tensors, current, offset = [], [], "x", 0
    data = path.with_suffix(".data")
    with data.open("wb") as sink:

        def weight(name: str, array: np.ndarray) -> None:  # type: ignore[type-arg]
            nonlocal offset
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", str(offset)), ("length", str(array.nbytes))):
                tensor.external_data.add(key=key, value=value)
            sink.write(array.tobytes())
            offset += array.nbytes
            tensors.append(tensor)

        for layer in range(layers):
            weight(f"w{layer}", rng.standard_normal((width, width), dtype=np.float32) / 64)
            weight(f"b{layer}", rng.standard_normal(width, dtype=np.float32))
            nodes.append(helper.make_node("MatMul", [current, f"w{layer}"], [f"m{layer}"]))
            nodes.append(helper.make_node("Add", [f"m{layer}", f"b{layer}"], [f"a{layer}"]))
            # Absorbed by the weight before it: every weight of the model is computed anew.
            weight(f"s{layer}", rng.uniform(0.5, 2.0, width).astype(np.float32))
            nodes.append(helper.make_node("Mul", [f"a{layer}", f"s{layer}"], [f"i{layer}"]))
            nodes.append(helper.make_node("Relu", [f"i{layer}"], [f"r{layer}"]))
            current = f"r{layer}"
    nodes[-1].output[0] = "y"
    types = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "mlp", types[:1], types[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def peak_memory(process: subprocess.Popen[str]) -> int:
    """Return the largest sum of resident bytes of a process and its children, sampled until it ends."""
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, sum(_resident(pid) for pid in _family(process.pid)))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    watcher.join()
    return peak


def _family(root: int) -> list[int]:
    found = [root]
    for pid in found:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        try:
            found += [int(child) for child in children.read_text().split()]
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--output", type=Path, help="where to write the results")
    arguments.add_argument("--megabytes", type=int, default=1500)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        source, target = Path(name) / "model.onnx", Path(name) / "out" / "model.onnx"
        target.parent.mkdir()
        make(source, options.megabytes)
        size = sum(file.stat().st_size for file in Path(name).iterdir() if file.is_file())
        began = time.perf_counter()
        command = [sys.executable, "-c", _WORK, str(source), str(target)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        peak = peak_memory(process)
        seconds = time.perf_counter() - began
        answer = json.loads(process.stdout.read()) if process.stdout and process.returncode == 0 else None
        written = sum(file.stat().st_size for file in target.parent.iterdir())
    report = {
        "file_bytes": size, "peak_bytes": peak, "ratio": round(peak / size, 3), "limit": LIMIT,
        "seconds": round(seconds, 2), "written_bytes": written, "nodes_and_notes": answer,
    }  # fmt: skip
    print(f"file {size / 1e9:.2f} GB, peak {peak / 1e9:.2f} GB: {peak / size:.2f} × the file, {seconds:.1f} s")
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0 if answer is not None and written >= size * 0.99 and peak < LIMIT * size else 1


if __name__ == "__main__":
    sys.exit(main())
