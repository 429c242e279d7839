"""What the teacher says of a batch: read from a recording, or asked at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from mopt.passes.contract import Context, PassError
from mopt.passes.distill.recording import Recording, recording_folder
from mopt.passes.distill.teacher import Teacher
from mopt.runtime.contract import DataError
from mopt.runtime.data.splits import split_name

if TYPE_CHECKING:
    from mopt.ir import Module
    from mopt.passes.distill.options import Distillation
    from mopt.runtime.training.objective import Batch


class Guidance(Protocol):
    """Gives a teacher's outputs for a batch."""

    def outputs(self, batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
        """Return them by name, f32, on a device."""


class Recorded:
    """From disk."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def outputs(self, batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
        """Return what was recorded for the batch's samples."""
        try:
            found = self._recording.read(batch.samples.tolist())
        except ValueError as error:
            raise DataError(f"what the teacher put out for these samples has different shapes: {error}") from error
        return {name: torch.from_numpy(array).to(device) for name, array in found.items()}


class Asked:
    """From the teacher itself."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def outputs(self, batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
        """Run the teacher on what the student is fed."""
        feeds = {name: np.asarray(tensor.detach().cpu().numpy()) for name, tensor in batch.feeds.items()}
        found = self._teacher.run(self._teacher.feeds_of(feeds), "a batch")
        return {name: torch.from_numpy(np.ascontiguousarray(array)).to(device) for name, array in found.items()}


def guidance_of(
    module: Module,
    options: Distillation,
    context: Context,
    feeds: dict[str, str],
    outputs: tuple[str, ...],
    batch_axis: int = 0,
) -> tuple[Guidance, str]:
    """Return where the teacher's outputs come from, and a note about it; offline, they are recorded now.

    Args:
        module: the teacher, which puts these outputs out.
        feeds: the student's input for each of the teacher's.
        outputs: what is wanted.
        batch_axis: that of the outputs.
    """
    name = options.teacher.name
    teacher = Teacher(module, name, feeds, outputs, batch_axis)
    if options.mode == "online":
        return Asked(teacher), f"`{name}` ran at every step"
    split = context.split(options.data)
    if getattr(split, "pad", False):
        raise PassError(
            f"samples of `{split_name(split)}` are padded to the longest of their batch, so what the teacher says of "
            "one depends on the others",
            help="take `mode=online`",
        )
    recording = Recording(
        recording_folder(context.recordings(options.teacher, options.data), outputs, feeds), outputs, len(split)
    )
    ran = recording.make(teacher, split, context)
    teacher.close()
    size = f"{recording.bytes / 1e6:.1f} MB"
    done = f"`{name}` ran on {ran} of {len(split)} samples" if ran else f"`{name}` had run on these samples before"
    return Recorded(recording), f"{done}; {size} of its outputs are kept"
