"""One simplifier on one file, in a process of its own: `simplify_runner.py TOOL IN OUT REPEATS`, JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

Run = Callable[[str, str], object]


def _onnxsim() -> Run:
    import onnx
    import onnxsim

    def run(source: str, target: str) -> object:
        model, succeeded = onnxsim.simplify(onnx.load(source))
        onnx.save(model, target)
        return "" if succeeded else "its own check failed"

    return run


def _onnxslim() -> Run:
    import onnx
    import onnxslim

    def run(source: str, target: str) -> object:
        onnx.save(onnxslim.slim(onnx.load(source)), target)
        return ""

    return run


def _mopt(growth: int | None = None) -> Run:
    from mopt.ir import load, save
    from mopt.passes.simplify.simplify import Simplify
    from mopt.values import ByteSize

    operation = Simplify() if growth is None else Simplify(max_growth=ByteSize(growth))

    class Context:
        seed = 0
        bindings: ClassVar[dict[str, int]] = {}

        @contextmanager
        def progress(self, description: str, total: int | None = None) -> Iterator[None]:
            yield None

    def run(source: str, target: str) -> object:
        result = operation.run(load(source), Context())  # type: ignore[arg-type]
        save(result.module, target)
        return "; ".join(note.message for note in result.notes if not note.message.startswith("applied"))

    return run


TOOLS: dict[str, Callable[[], Run]] = {
    "onnxsim": _onnxsim,
    "onnxslim": _onnxslim,
    "mopt": _mopt,
    "mopt-written-out": lambda: _mopt(1 << 30),
}


def _tiny(path: str) -> None:
    import onnx
    from onnx import parser

    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x) => (float[N, 3] y) { z = Relu(x) y = Neg(z) }'
    onnx.save(parser.parse_model(text), path)


def main() -> None:
    tool, source, target, repeats = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the tools print
    began = time.perf_counter()
    run = TOOLS[tool]()
    imported = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        # What a tool does once per process is none of the model's.
        small = str(Path(folder) / "tiny.onnx")
        _tiny(small)
        run(small, small)
    seconds: list[float] = []
    note: object = ""
    while len(seconds) < repeats and (not seconds or sum(seconds) < 4):
        began = time.perf_counter()
        note = run(source, target)
        seconds.append(time.perf_counter() - began)
    json.dump({"seconds": seconds, "import_seconds": imported, "note": note}, answers)
    answers.flush()


if __name__ == "__main__":
    main()
