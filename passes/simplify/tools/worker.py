"""The other end of `ToolProcess`: runs one opaque tool on models that come in through a pipe.

Started as a script by its path, so that it imports nothing of this project. A message is a length (8 bytes,
little-endian) and that many bytes; an answer is one byte (0 done, 1 failed), a length, and a model or an error text.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import IO, Any


def _serve(tool: str, source: IO[bytes], sink: IO[bytes]) -> None:
    run = {"onnxsim": _onnxsim, "onnxoptimizer": _onnxoptimizer}[tool]()
    while header := source.read(8):
        (size,) = struct.unpack("<Q", header)
        (passes,) = struct.unpack("<Q", source.read(8))
        names = [name for name in source.read(passes).decode().split(",") if name]
        try:
            status, answer = 0, run(source.read(size), names)
        except Exception as error:  # noqa: BLE001  whatever the tool raises is its answer
            status, answer = 1, f"{type(error).__name__}: {error}".encode()
        sink.write(struct.pack("<BQ", status, len(answer)) + answer)
        sink.flush()


def _onnxsim() -> Any:
    # onnxsim imports torch where there is one (for training features), which takes seconds and is not needed here.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import onnx
    import onnxsim

    def run(data: bytes, names: list[str]) -> bytes:
        skipped = [name.removeprefix("-") for name in names]
        # Importing schemas would copy the whole operator registry anew for every model; nothing was added to it here.
        model, succeeded = onnxsim.simplify(
            onnx.load_model_from_string(data), skipped_optimizers=skipped or None, import_custom_schemas=False
        )
        if not succeeded:
            raise RuntimeError("its own check failed")
        return bytes(model.SerializeToString())

    return run


def _onnxoptimizer() -> Any:
    import onnx
    import onnxoptimizer

    def run(data: bytes, names: list[str]) -> bytes:
        chosen = names or onnxoptimizer.get_fuse_and_elimination_passes()
        model = onnxoptimizer.optimize(onnx.load_model_from_string(data), chosen, fixed_point=True)
        return bytes(model.SerializeToString())

    return run


if __name__ == "__main__":
    # The tools print: their standard output must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.argv[1], sys.stdin.buffer, answers)
