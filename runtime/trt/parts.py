"""Running a model in parts: engines and ONNX files, one after the other, as their list says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mopt.runtime.contract import RunError, TargetError

if TYPE_CHECKING:
    import numpy as np
    from mopt.runtime.contract import Runner
    from mopt.runtime.ort import Port

MANIFEST: Final = "model.parts.json"
"""The list of parts: their files, what each runs, and why it is not all one engine."""

Open = Callable[[Path, Mapping[str, Any]], "Runner"]
"""Opens one part: its file, and what the list says of it."""


def read_parts(path: Path) -> dict[str, Any]:
    """Return the list of parts.

    Raises:
        TargetError: it is not there, damaged, or lacks a file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        files = [path.with_name(part["file"]) for part in found["parts"]]
    except OSError as error:
        raise TargetError(f"can't read {path}: {error.strerror}", missing=True) from error
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError(f"{path} is damaged: {error}", missing=True, help="compile the recipe again") from error
    lacking = [file.name for file in files if not file.is_file()]
    if lacking:
        raise TargetError(
            f"{path}: {', '.join(lacking)} is not beside it", missing=True, help="keep all files of the folder together"
        )
    return dict(found)


class PartsRunner:
    """The parts of a model, run in sequence. Values between them pass through the host.

    Args:
        path: the list of parts.
        open_part: how to load one.

    Raises:
        TargetError: the list or a part can't be loaded.
    """

    def __init__(self, path: Path, open_part: Open) -> None:
        from mopt.runtime.ort import Port

        listed = read_parts(path)
        self._parts: Sequence[Mapping[str, Any]] = listed["parts"]
        self._runners = [open_part(path.with_name(part["file"]), part) for part in self._parts]
        self._inputs = tuple(Port(one["name"], one["dtype"], tuple(one["shape"])) for one in listed["inputs"])
        self._outputs = tuple(Port(one["name"], one["dtype"], tuple(one["shape"])) for one in listed["outputs"])

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What `run` must be fed."""
        return self._inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """What `run` returns."""
        return self._outputs

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """Run every part.

        Raises:
            RunError: an input is missing, or a part fails.
        """
        lacking = [port.name for port in self._inputs if port.name not in feeds]
        if lacking:
            raise RunError(f"no value for input `{lacking[0]}`")
        wanted = {port.name for port in self._outputs}
        known = dict(feeds)
        for at, (part, runner) in enumerate(zip(self._parts, self._runners, strict=True)):
            known |= runner.run({name: known[name] for name in part["inputs"]})
            later = {name for other in self._parts[at + 1 :] for name in other["inputs"]}
            known = {name: array for name, array in known.items() if name in later or name in wanted}
        return {port.name: known[port.name] for port in self._outputs}

    def close(self) -> None:
        """Free what the parts hold."""
        for runner in self._runners:
            close = getattr(runner, "close", None)
            if callable(close):
                close()


def open_with(library: str) -> Open:
    """Return what opens engines with a library, and everything else with onnxruntime."""

    def open_part(file: Path, part: Mapping[str, Any]) -> Runner:
        if part["runtime"] == "onnxruntime":
            from mopt.runtime.ort import OrtRunner

            return OrtRunner(file)
        from mopt.runtime.trt.runner import TrtRunner

        return TrtRunner(file, library)

    return open_part
