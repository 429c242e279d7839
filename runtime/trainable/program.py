"""A graph as a list of steps over numbered slots: what runs at every call, with nothing left to decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from mopt.runtime.trainable.operator import Compute

ABSENT: Final = 0
"""The slot of inputs that are not there: it always holds None."""


@dataclass
class Mode:
    """What the nodes of a runner need to know of the moment.

    Attributes:
        training: whether the runner trains at this call.
        train_batch_norm: whether batch normalisations then use (and follow) the statistics of the batch.
        dropout: whether dropouts then drop.
        device: the accelerator the runner is on; None on the CPU.
    """

    training: bool = False
    train_batch_norm: bool = True
    dropout: bool = True
    device: torch.device | None = None


@dataclass(frozen=True)
class Step:
    """One operator at work.

    Attributes:
        compute: the function.
        inputs: slots of its arguments.
        outputs: slots of its results; a single one where the function returns a tensor and no tuple.
        frees: slots that nobody reads afterwards.
        moves: places among the arguments that are computed on the CPU and needed on the accelerator.
        label: the node and its operator, for error messages.
    """

    compute: Compute
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    frees: tuple[int, ...]
    moves: tuple[int, ...]
    label: str


@dataclass
class Program:
    """The steps of one graph.

    Attributes:
        slots: how many slots it needs.
        inputs: the slots of the graph's inputs, then of what it captures from outside.
        outputs: the slots of its outputs.
        moves: places among the outputs that are computed on the CPU and needed on the accelerator.
        steps: in order.
    """

    slots: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    steps: list[Step]
    moves: tuple[int, ...] = ()

    def __deepcopy__(self, _: dict[int, Any]) -> Program:
        return self  # nothing in it changes; what trains is the runner's

    def run(self, given: Sequence[Any], device: torch.device | None) -> list[Any]:
        """Run once.

        Args:
            given: values for `inputs`.
            device: the accelerator, or None on the CPU.
        """
        slots: list[Any] = [None] * self.slots
        for slot, value in zip(self.inputs, given, strict=True):
            slots[slot] = value
        del given
        self.execute(slots, device)
        found = [slots[slot] for slot in self.outputs]
        if device is not None:
            for place in self.moves:
                found[place] = moved(found[place], device)
        return found

    def execute(self, slots: list[Any], device: torch.device | None) -> None:
        """Run the steps over slots that hold the inputs.

        Raises:
            Exception: whatever an operator raises, with a note that names the node.
        """
        step = None
        try:
            for step in self.steps:
                arguments = [slots[slot] for slot in step.inputs]
                if device is not None:
                    for place in step.moves:
                        arguments[place] = moved(arguments[place], device)
                result = step.compute(*arguments)
                outputs = step.outputs
                if len(outputs) == 1:
                    slots[outputs[0]] = result[0] if type(result) is tuple else result
                else:
                    for slot, value in zip(outputs, result, strict=False):
                        slots[slot] = value
                # Freed here rather than at the end: what autograd does not keep must not stay alive for us.
                del arguments, result
                for slot in step.frees:
                    slots[slot] = None
        except Exception as error:
            if step is not None:
                error.add_note(f"at node {step.label}")
            raise


def moved(value: Any, device: torch.device) -> Any:
    """Return a tensor on a device; what is none (a sequence, text, nothing) as it is."""
    return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
