"""Energy of a run, from the counter that NVIDIA's management library (NVML) reads off the board.

The counter is of the whole board, its idle draw included, and moves every 20 to 100 ms: a model is run for seconds,
and the difference is divided by the runs. NVML comes with the driver; Python reads it through `nvidia-ml-py`, which is
optional. What can't be measured is said, never guessed.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from mopt.runtime.gpu import Missing, gpus

SECONDS: Final = 2.0
"""How long a model is run for its energy: twenty steps of the counter, or more."""


@dataclass(frozen=True)
class Energy:
    """Attributes:
        joules: of one run. watts: the board's mean power meanwhile.
        runs: how many were made. batch: samples in one run.
    """  # fmt: skip

    joules: float
    watts: float
    runs: int
    batch: int = 1

    @property
    def per_sample(self) -> float:
        """Joules a sample."""
        return self.joules / self.batch

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"joules_per_sample": self.per_sample}


class Meter:
    """A GPU's energy counter.

    Args:
        nvml: the module `pynvml`.
        device: NVML's handle of the GPU.
    """

    def __init__(self, nvml: Any, device: Any) -> None:
        self._nvml, self._device = nvml, device

    def joules(self) -> float:
        """Return what the board has taken since the driver was loaded."""
        return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._device)) * 1e-3


def open_meter(uuid: str = "", nvml: Any = None) -> Meter | Missing:
    """Return the counter of a GPU, or why there is none.

    Args:
        uuid: which GPU; the first that this process may use by default.
        nvml: the module `pynvml`; the installed one by default.
    """
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return Missing("the package nvidia-ml-py is not installed", "pip install nvidia-ml-py")
    if not uuid:
        here = gpus()
        if not here:
            return Missing("there is no NVIDIA GPU to read it from", "an NVIDIA GPU and its driver")
        uuid = here[0].uuid
    try:
        nvml.nvmlInit()
        meter = Meter(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
        meter.joules()
    except nvml.NVMLError as error:
        if type(error).__name__ == "NVMLError_NotSupported":
            return Missing("this GPU has no energy counter", "a GPU of the Volta generation or later")
        return Missing(f"NVML does not tell: {error}", "check `nvidia-smi`")
    return meter


def measure_energy(
    meter: Meter,
    run: Callable[[], object],
    *,
    batch: int = 1,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Energy:
    """Run a model for some seconds and read the counter before and after.

    Args:
        meter: the counter.
        run: runs once and returns when the device is done.
        batch: samples in one run.
        seconds: how long, at least.
        clock: seconds, monotonic.
    """
    run()
    # From one step of the counter to another: what is left of the step it began in would count as nothing.
    before = meter.joules()
    limit = clock() + 0.2
    while (moved := meter.joules()) == before and clock() < limit:
        run()
    start, runs = clock(), 0
    while clock() - start < seconds:
        run()
        runs += 1
    used, elapsed = meter.joules() - moved, clock() - start
    return Energy(used / runs, used / elapsed, runs, batch)
