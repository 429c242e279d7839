"""onnxruntime with inputs and outputs that stay on the device: what a GPU's time must not hold is copies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from mopt.runtime.contract import RunError

if TYPE_CHECKING:
    import numpy as np

Device = Literal["cpu", "cuda"]
DEVICES: Final[dict[str, Device]] = {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}
"""Where each execution provider keeps its tensors."""


def device_resident(
    session: Any, outputs: Sequence[str], feeds: Mapping[str, np.ndarray[Any, Any]], device: Device, options: Any
) -> Callable[[], object]:
    """Return a function that runs on inputs copied to the device once, and leaves the outputs there.

    Each call returns when the device is done, so a clock around it measures the run. Sizes of outputs are found by
    onnxruntime at every run, since they may depend on values.

    Args:
        session: an `InferenceSession`.
        outputs: names of the outputs to compute.
        feeds: inputs by name.
        device: where to keep them.
        options: `RunOptions`.

    Raises:
        RunError: the device has no room for the inputs.
    """
    import onnxruntime

    binding = session.io_binding()
    held = []
    try:
        for name, array in feeds.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0)
            held.append(value)
            binding.bind_ortvalue_input(name, value)
        for name in outputs:
            binding.bind_output(name, device)
    except Exception as error:  # onnxruntime raises a family of unrelated types
        raise RunError(f"the inputs can't be put on {device}: {str(error).splitlines()[0][:300]}") from error

    def run() -> object:
        session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return held  # the inputs live as long as the function does

    return run
