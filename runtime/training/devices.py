"""Processes, devices and precision, by Accelerate: one process on a CPU, or many GPUs under `accelerate launch`."""

from __future__ import annotations

import datetime
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from mopt.runtime.training.objective import Batch, Objective, first_line, is_out_of_memory, shapes
from mopt.runtime.training.settings import Settings, TrainingError

_PRECISIONS = {"f32": "no", "bf16": "bf16", "f16": "fp16"}


def open_accelerator(settings: Settings) -> Any:
    """Return an `accelerate.Accelerator` for a run.

    Raises:
        TrainingError: Accelerate is not installed, or the device or the precision is not there.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise TrainingError("training needs Accelerate, which is not installed", help="pip install 'mopt[torch]'")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise TrainingError(
            "`device=cuda`: PyTorch sees no GPU here", help="`device=auto` takes a GPU only where there is one"
        )
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState, PartialState

    # One compile may train several times, in other precisions or on other devices; Accelerate keeps what the first
    # run asked for in a state of the process, and refuses another.
    alone = not PartialState._shared_state or PartialState().num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    help = "`precision=bf16` works on a CPU, `f32` everywhere"
    try:
        accelerator = Accelerator(
            mixed_precision=_PRECISIONS[settings.precision],
            cpu=settings.device == "cpu",
            kwargs_handlers=[
                # The branches of an `If` that were not taken have no gradient.
                DistributedDataParallelKwargs(find_unused_parameters=True),
                # The main process may evaluate for long while the others wait.
                InitProcessGroupKwargs(timeout=datetime.timedelta(hours=12)),
            ],
        )
    except ValueError as error:
        told = f"`precision={settings.precision}` does not work on this device: {error}"
        raise TrainingError(told, help=help) from error
    if settings.precision == "f16" and accelerator.device.type == "cpu":
        # Accelerate would compute in float32 and say nothing.
        raise TrainingError("`precision=f16` needs a GPU, and this trains on the CPU", help=help)
    return accelerator


class Trained(torch.nn.Module):
    """A network with its objective as one module, so that gradients of both are averaged over processes."""

    def __init__(self, network: torch.nn.Module, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, feeds: Mapping[str, torch.Tensor], batch: Batch) -> torch.Tensor:
        """Return the loss of a batch; it is computed in float32 whatever the network computes in."""
        outputs = run(self.network, feeds)
        with torch.autocast(next(iter(feeds.values())).device.type, enabled=False):
            loss: torch.Tensor = self.objective({name: _single(value) for name, value in outputs.items()}, batch)
        return loss


def _single(value: Any) -> Any:
    """Return a tensor of reals in float32; anything else (integers, a sequence) as it is."""
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def run(network: torch.nn.Module, feeds: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Run a network.

    Raises:
        TrainingError: it does not take what it was fed.
    """
    try:
        outputs: Mapping[str, torch.Tensor] = network(feeds)
    except (RuntimeError, IndexError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        where = "".join(f" ({note})" for note in getattr(error, "__notes__", ())[:1])
        raise TrainingError(f"the graph does not run on {shapes(feeds)}: {first_line(error)}{where}") from error
    return outputs
