"""Calibration's memory by the number of samples, and its time beside onnxruntime's entropy calibration, as JSON.

    python tests/benchmarks/calibration.py --output tests/benchmarks/results/calibration.json

PP-OCRv4's recogniser on rendered lines, which are drawn when they are asked for, so that what the data takes is the
same for any number of them. Memory: `quantize.static` on lines of their own widths, from 64 to 640 columns; of each
run, in a process of its own, the peak resident memory. Time: the same lines, cut or padded to one width, since
onnxruntime's histogram calibrators fail on unequal ones; calibration and the choice of ranges alone, with the values
that each tool observes by itself, by both at one thread, in turns. `Conv` and `MatMul` are what onnxruntime is told to
quantise; with all of its operators it observes more values and takes longer.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
MODEL = "pkg:rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx"
COUNTS = {"mopt": (1, 32, 128, 512), "onnxruntime": (1, 16, 32)}
"""onnxruntime keeps every observed tensor of every sample: 512 lines would take some 25 GB."""
TIMED = 32
WIDTH = 320
ROUNDS = 3


class Lines:
    """Rendered lines, drawn anew each time they are iterated.

    Args:
        count: how many.
        width: cut or pad every line to so many columns; 0 for its own width, padded to a multiple of 64 as the
            recipe does, at most 640.
    """

    name, pad = "lines", False

    def __init__(self, count: int, width: int = 0) -> None:
        sys.path.insert(0, str(HERE))
        from quantize_recurrent import of_recipe

        self._data, self._count, self._width = of_recipe("data"), count, width

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        import numpy as np

        for index in range(self._count):
            # The widest line comes first, so that every run meets the same largest shape.
            drawn = self._data._line(np.random.default_rng([7, index]), 48, 8.0)[0]
            width = self._width or (640 if index == 0 else min(-(-drawn.shape[2] // 64) * 64, 640))
            padded = np.zeros((3, 48, width), np.float32)
            padded[:, :, : drawn.shape[2]] = drawn[:, :, :width]
            yield {"x": padded}

    def batches(self, size: int) -> Iterator[Mapping[str, Any]]:
        """Yield batches of one."""
        assert size == 1
        for sample in self:
            yield {name: array[None] for name, array in sample.items()}


def float_model(folder: Path) -> Path:
    """Write the simplified recogniser at opset 13."""
    sys.path.insert(0, str(HERE))
    from mopt.ir import load, save
    from mopt.passes.convert.opset import Opset
    from mopt.passes.simplify.simplify import Simplify
    from mopt.values import Location
    from quantize_recurrent import context

    module = Simplify().run(load(Location(MODEL).resolve()), context([], folder)).module
    path = folder / "float.onnx"
    save(Opset(to=13).run(module, context([], folder)).module, path)
    return path


def by_mopt(path: Path, lines: Lines, method: str) -> float:
    """Quantise; return the seconds that calibration and the choice of ranges took."""
    from mopt.ir import load
    from mopt.passes.quantize import static_graph, static_run
    from mopt.passes.quantize.static import Static
    from mopt.values import DataRef
    from quantize_recurrent import context

    taken = []

    def timed(work: Any) -> Any:
        def run(*given: Any, **options: Any) -> Any:
            start = time.perf_counter()
            result = work(*given, **options)
            taken.append(time.perf_counter() - start)
            return result

        return run

    calibrate, grids = static_run.calibrate, static_graph.grids
    static_run.calibrate, static_graph.grids = timed(calibrate), timed(grids)
    given = context([], path.parent)
    given.split = lambda _: lines
    Static(data=DataRef("lines", "calib"), method=method).run(load(path), given)  # type: ignore[arg-type]
    static_run.calibrate, static_graph.grids = calibrate, grids
    return sum(taken)


def by_onnxruntime(path: Path, lines: Lines, method: str) -> float:
    """Calibrate with onnxruntime's quantiser; return the seconds it took."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(lines)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.left, None)
            return None if sample is None else {"x": sample["x"][None]}

    methods = {"entropy": CalibrationMethod.Entropy, "percentile": CalibrationMethod.Percentile,
               "minmax": CalibrationMethod.MinMax}  # fmt: skip
    start = time.perf_counter()
    calibrator = create_calibrator(
        path, ["Conv", "MatMul"], str(path.parent / "augmented.onnx"), calibrate_method=methods[method]
    )
    calibrator.collect_data(Reader())
    calibrator.compute_data()
    return time.perf_counter() - start


def work(tool: str, path: Path, count: int, width: int, method: str) -> dict[str, Any]:
    """Do one run; return its seconds and the peak resident memory of this process in MiB."""
    run = by_mopt if tool == "mopt" else by_onnxruntime
    try:
        seconds = run(path, Lines(count, width), method)
    except ValueError as error:
        return {"fails": str(error).splitlines()[0]}
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    return {"seconds": round(seconds, 3), "peak_mib": round(peak, 1)}


def in_process(tool: str, path: Path, count: int, width: int, method: str) -> dict[str, Any]:
    """Do one run in a process of its own."""
    command = [sys.executable, str(HERE / "calibration.py"), "--work", tool, str(path), str(count), str(width), method]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(tool, count, width or "own widths", method, answer, flush=True)
    return answer


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", nargs=5)
    given = parser.parse_args()
    if given.work:
        tool, path, count, width, method = given.work
        print(json.dumps(work(tool, Path(path), int(count), int(width), method)))
        return
    with tempfile.TemporaryDirectory(prefix="calibration-") as name:
        path = float_model(Path(name))
        memory = {
            tool: {count: in_process(tool, path, count, width, "entropy") for count in COUNTS[tool]}
            for tool, width in (("mopt", 0), ("onnxruntime", WIDTH))
        }
        unequal = in_process("onnxruntime", path, 8, 0, "entropy")
        times: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for tool, method in (
                ("mopt", "entropy"), ("onnxruntime", "entropy"), ("mopt", "mse"), ("mopt", "minmax"),
                ("onnxruntime", "minmax"),
            ):  # fmt: skip
                found = in_process(tool, path, TIMED, WIDTH, method)
                times.setdefault(f"{tool} {method}", []).append(found.get("seconds", float("nan")))
    report = {
        "processor": platform.processor() or platform.machine(),
        "memory_by_samples": memory,
        "onnxruntime_on_unequal_widths": unequal,
        "seconds": {label: {"median": statistics.median(found), "all": found} for label, found in times.items()},
        "timed_samples": TIMED, "timed_width": WIDTH,
    }  # fmt: skip
    text = json.dumps(report, indent=1)
    if given.output:
        given.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
