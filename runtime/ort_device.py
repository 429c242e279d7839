"""onnxruntime with inputs and outputs that stay on the device: what a GPU's time must not hold is copies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import onnxruntime as ort
from mopt.runtime.contract import RunError
from mopt.runtime.ort_failure import device_failure, first_lines

if TYPE_CHECKING:
    import numpy as np

Device = Literal["cpu", "cuda"]
DEVICES: Final[dict[str, Device]] = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}
"""Where each execution provider keeps its tensors."""

_GRAPH: Final = "gpu_graph_id"
_NO_GRAPH: Final = "-1"
_UNSYNCHRONISED: Final = "disable_synchronize_execution_providers"
_numbers = itertools.count(1)


class Stream(Protocol):
    """A CUDA stream with events in it (`CudaDriver`)."""

    def event(self) -> int:
        """Return a new event."""

    def record(self, event: int) -> None:
        """Note an event in the stream."""

    def seconds(self, start: int, end: int) -> float:
        """Wait for the later event and return the device's time between the two."""


def quiet_run(*, graph: str | None = None, wait: bool = True) -> Any:
    """Return options of a run: errors come as exceptions, not on stderr.

    Args:
        graph: which recorded CUDA graph it may make or launch; None where the session records none.
        wait: return when the device is done.
    """
    options = ort.RunOptions()
    options.log_severity_level = 4
    if graph is not None:
        options.add_run_config_entry(_GRAPH, graph)
    if not wait:
        options.add_run_config_entry(_UNSYNCHRONISED, "1")
    return options


def plain_run(cuda_graph: bool) -> Any:
    """Return options of a run on arrays of the host: it must launch no recorded graph, which reads other addresses."""
    return quiet_run(graph=_NO_GRAPH if cuda_graph else None)


class DeviceRun:
    """A model bound to inputs that were copied to the device once, and to outputs that stay there.

    Without a CUDA graph, sizes of outputs are found by onnxruntime at every run, since they may depend on values.
    With one, a first run without it finds them; inputs and outputs then keep their addresses, which the recorded
    graph reads and writes, and each `DeviceRun` has a graph of its own.

    Args:
        session: an `InferenceSession`.
        outputs: names of the outputs to compute.
        feeds: inputs by name.
        device: where to keep them.
        cuda_graph: the session was made with CUDA graphs.
        stream: where the session runs, for `seconds`; None: its time can't be taken on the device.

    Raises:
        DeviceError: the device has no room.
        RunError: an input can't be put on it, or the model does not take it.
    """

    def __init__(
        self,
        session: Any,
        outputs: Sequence[str],
        feeds: Mapping[str, np.ndarray[Any, Any]],
        device: Device,
        *,
        cuda_graph: bool = False,
        stream: Stream | None = None,
    ) -> None:
        self._session, self._outputs, self._stream = session, tuple(outputs), stream
        self._binding = session.io_binding()
        graph = str(next(_numbers)) if cuda_graph else None
        self._waiting, self._going = quiet_run(graph=graph), quiet_run(graph=graph, wait=False)
        self._held = []  # tensors that the binding refers to
        try:
            for name, array in feeds.items():
                value = ort.OrtValue.ortvalue_from_numpy(array, _home(session, name, device), 0)
                self._held.append(value)
                self._binding.bind_ortvalue_input(name, value)
            for name in self._outputs:
                self._binding.bind_output(name, device)
        except Exception as error:  # onnxruntime raises a family of unrelated types
            told = f"the inputs can't be put on {device}: {first_lines(error, 1)}"
            raise device_failure(error) or RunError(told) from error
        if cuda_graph:
            self._fix_outputs(device)
        self._events = (stream.event(), stream.event()) if stream is not None else None

    def __call__(self) -> None:
        """Run once, and return when the device is done: a clock around it measures the run."""
        self._run(self._waiting)
        self._binding.synchronize_outputs()

    def seconds(self) -> float:
        """Run once, and return the device's own time for it, by events before and after."""
        if self._stream is None or self._events is None:
            raise RunError("this session has no stream to put events into")
        start, end = self._events
        self._stream.record(start)
        self._run(self._going)
        self._stream.record(end)
        return self._stream.seconds(start, end)

    @property
    def timed_by_device(self) -> bool:
        """Whether `seconds` can be used."""
        return self._stream is not None

    def fetch(self) -> dict[str, np.ndarray[Any, Any]]:
        """Return the outputs of the last run, copied to the host."""
        return dict(zip(self._outputs, self._binding.copy_outputs_to_cpu(), strict=True))

    def _run(self, options: Any) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:  # onnxruntime raises a family of unrelated types
            raise device_failure(error) or RunError(first_lines(error)) from error

    def _fix_outputs(self, device: Device) -> None:
        """Run without recording, and give each output the memory that its size needs for good."""
        self._run(plain_run(cuda_graph=True))
        found = [(value.shape(), value.element_type()) for value in self._binding.get_outputs()]
        self._binding.clear_binding_outputs()
        for name, (shape, kind) in zip(self._outputs, found, strict=True):
            try:
                value = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind, device, 0)
            except Exception as error:  # onnxruntime raises a family of unrelated types
                told = f"output `{name}` can't be put on {device}: {first_lines(error, 1)}"
                raise device_failure(error) or RunError(told) from error
            self._held.append(value)
            self._binding.bind_ortvalue_output(name, value)


def _home(session: Any, name: str, device: Device) -> Device:
    """Return where the session reads an input: some are read on the host (a size, a rate)."""
    if device == "cpu" or not hasattr(session, "get_input_memory_infos"):
        return device
    names = [port.name for port in session.get_inputs()]
    told = dict(zip(names, session.get_input_memory_infos(), strict=False)).get(name)
    return "cpu" if told is not None and str(told.name).lower() == "cpu" else device
